"""The page's routes: what they send, to whom, and that nothing is loaded from elsewhere.

page_test.py BINARY SOURCE_DIR [unittest arguments]
"""

import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

BINARY, SOURCE = sys.argv[1:3]
PAGE = os.path.join(SOURCE, "runtime/server/page")
FILES = {"/": ("index.html", "text/html; charset=utf-8"),
         "/page.css": ("page.css", "text/css; charset=utf-8"),
         "/page.js": ("page.js", "text/javascript; charset=utf-8")}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
          "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def source(name):
    with open(os.path.join(PAGE, name), encoding="utf-8") as file:
        return file.read()


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(BINARY, SOURCE, ["ask.prompt_template={document} ? {question}",
                                             "ask.stop=END"],
                            environment={"LONGSPAN_API_KEY": "secret"})

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_files_come_without_a_key(self):
        for path, (name, content_type) in FILES.items():
            with self.subTest(path=path):
                status, headers, text = self.server.call("GET", path)
                self.assertEqual(status, 200)
                self.assertEqual(text, source(name))
                self.assertEqual(headers["Content-Type"], content_type)
                self.assertEqual(headers["Cache-Control"], "no-cache")
                self.assertEqual(headers["Content-Security-Policy"], POLICY)
                self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
                status, headers, text = self.server.call("HEAD", path)
                self.assertEqual((status, text), (200, ""))
                self.assertEqual(headers["Content-Type"], content_type)
                self.assertEqual(self.server.call("POST", path, "{}")[0], 405)

    def test_other_paths(self):
        for path in ("/page", "/page/", "/index.html", "/page.js/", "/../page.js"):
            self.assertEqual(self.server.call("GET", path)[0], 404, path)

    def test_settings_need_a_key(self):
        self.assertEqual(self.server.call("GET", "/page/settings")[0], 401)
        status, headers, text = self.server.call("GET", "/page/settings",
                                                 headers={"Authorization": "Bearer secret"})
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertEqual(json.loads(text), {
            "model": "model", "max_model_len": 4096, "max_body_bytes": 200000,
            "prompt_template": "{document} ? {question}", "stop": "END"})

    def test_nothing_comes_from_elsewhere(self):
        for name, _ in FILES.values():
            self.assertIsNone(re.search(r"\w+://|[\"'(=]\s*//|@import|url\(", source(name)), name)

    def test_the_policy_suffices(self):
        page = source("index.html")
        for kind in (r"<style", r"\sstyle=", r"<script[^>]*>[^<]", r"\son\w+=", r"javascript:",
                     r"<iframe", r"<base"):
            self.assertIsNone(re.search(kind, page), kind)
        self.assertIsNone(re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML",
                                    source("page.js")))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
