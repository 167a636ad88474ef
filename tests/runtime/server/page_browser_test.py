"""The page as a reader has it, in headless Chromium: on a stand-in for the server, and on it.

page_browser_test.py BINARY SOURCE_DIR [unittest arguments]; exit code 77 without Chromium. With
$LONGSPAN_SCREENSHOTS, a folder, pictures are left there.
"""

import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import CONTROL, NAMES, SHIFT, Browser, find_browser  # noqa: E402
from page_server import PageServer  # noqa: E402
from serving import Server  # noqa: E402

BINARY, SOURCE = sys.argv[1:3]
if find_browser() is None:
    print("skipped: no browser: none of " + ", ".join(NAMES) + " is installed")
    sys.exit(77)
PICTURES = os.environ.get("LONGSPAN_SCREENSHOTS")

with open(os.path.join(SOURCE, "models/needle/demo/document.txt"), encoding="utf-8") as demo:
    # Characters of two UTF-16 units before all that is looked for.
    DOCUMENT = "A key \U0001f511 and \U0001f511\U0001f511. " * 400 + demo.read()
LATEST = "document.querySelector('.answer')"
DONE = (LATEST + "?.querySelector('.text').ariaBusy === 'false' && "
        "document.querySelector('#stop').hidden")
PEAKS = "document.querySelectorAll('.peaks li').length"


def quoted(text):
    return json.dumps(text)


class BrowserCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = Browser(find_browser())

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def setUp(self):
        self.browser.problems.clear()

    def tearDown(self):
        self.assertEqual(self.browser.problems, [])

    def text(self, selector):
        return self.browser.run(f"document.querySelector({quoted(selector)})?.innerText")

    def focused(self):
        return self.browser.run("document.activeElement.id || document.activeElement.className")

    def paste(self, selector, text):
        self.browser.run(f"""(() => {{
            const data = new DataTransfer();
            data.setData("text/plain", {quoted(text)});
            document.querySelector({quoted(selector)}).dispatchEvent(new ClipboardEvent("paste",
                {{clipboardData: data, bubbles: true, cancelable: true}}));
        }})()""")

    def ask(self, question, wait=True):
        self.browser.run("document.querySelector('#question').select()")
        self.browser.run("document.querySelector('#question').focus()")
        self.browser.type(question)
        self.browser.key("Enter", CONTROL)
        if wait:
            self.browser.wait(f"{LATEST}?.querySelector('.question').textContent === "
                              f"{quoted(question)} && {DONE}")

    def picture(self, name):
        if PICTURES:
            for width, height in ((1280, 900), (390, 844)):
                for dark in (False, True):
                    self.browser.view(width, height, dark)
                    self.browser.run("new Promise(requestAnimationFrame)")
                    self.browser.screenshot(os.path.join(
                        PICTURES, f"{name}_{width}_{'dark' if dark else 'light'}.png"))
            self.browser.view(1280, 900)


class StandInTest(BrowserCase):
    def setUp(self):
        super().setUp()
        self.server = PageServer(SOURCE)
        self.addCleanup(self.server.stop)

    def open(self):
        self.browser.open(self.server.url)
        self.browser.wait("document.querySelector('#model').textContent !== ''")

    def test_an_answer_and_what_it_attended_to(self):
        self.open()
        self.picture("empty")
        self.assertEqual(self.text("#model"), "needle, up to 65,536 tokens")
        self.paste("#document", DOCUMENT)
        self.assertEqual(self.text("#card-name"), "Pasted text")
        self.ask("What is the pass key?")
        self.assertEqual(self.text(".answer .text"), "The pass key is 64159 \U0001f511, as the "
                         "keeper of the gate wrote it down.")
        for words in ("tokens read", "13 tokens answered", "first token after", "tokens/s"):
            self.assertIn(words, self.text(".answer .counts"))

        body = self.server.bodies[0]
        self.assertEqual(body["prompt"],
                         f"Read this. {DOCUMENT}\nQuestion: What is the pass key?\n")
        self.assertEqual({key: value for key, value in body.items() if key != "prompt"},
                         {"model": "needle", "max_tokens": 256, "temperature": 0, "stream": True,
                          "stream_options": {"include_usage": True}, "stop": "\n",
                          "attended": True})

        # The strongest first, whose passage is shown; offsets count code points.
        self.assertGreaterEqual(self.browser.run(PEAKS), 3)
        self.assertIn("64159", self.text(".passage mark"))
        at = round(100 * DOCUMENT.encode("utf-16-le").find("64159".encode("utf-16-le")) /
                   len(DOCUMENT.encode("utf-16-le")))
        self.assertIn(f"at {at}%", self.text("figcaption"))
        self.assertIn(f"at {at}%", self.text(".unseen"))
        ink = self.browser.run("""(() => {
            const canvas = document.querySelector(".strip canvas");
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        })()""")
        self.assertGreater(ink, 3)
        self.picture("answer")

        # A click on another peak, and on a place between.
        self.browser.click(".peaks li:nth-child(2) button")
        self.assertIn("Upelya", self.text(".passage mark"))
        unit = DOCUMENT.encode("utf-16-le").find("64159".encode("utf-16-le"))
        self.browser.click(".strip", unit / len(DOCUMENT.encode("utf-16-le")))
        self.assertIn("64159", self.text(".passage mark"))
        self.browser.click(".strip", 0.001)
        self.assertIn("A key \U0001f511", self.text(".passage mark"))

        # Each answer has its own.
        self.ask("And cut?")
        self.assertEqual(self.browser.run("document.querySelectorAll('.strip canvas').length"), 2)
        self.assertIn("Cut at the limit", self.text(".answer .counts"))
        self.assertLess(self.browser.run("document.querySelectorAll('*').length"), 200)

    def test_the_keyboard_alone(self):
        self.open()
        order = []
        for _ in range(5):
            self.browser.key("Tab")
            order.append(self.focused())
        self.assertEqual(order, ["choose", "document", "question", "max-tokens", "go"])
        self.browser.key("Tab", SHIFT)
        self.browser.key("Tab", SHIFT)
        self.browser.key("Tab", SHIFT)
        self.browser.type("The pass key is 64159. " + "Hay. " * 500 + "Upelya. " + "Hay. " * 500)
        self.browser.key("Tab")
        self.browser.type("Which?")
        self.browser.key("Enter", CONTROL)
        self.browser.wait(DONE)
        self.assertIn("64159", self.text(".passage mark"))
        for wanted in ("max-tokens", "go", "strip"):
            self.browser.key("Tab")
            self.assertEqual(self.focused(), wanted)
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        self.assertEqual(self.browser.run(outline), "solid")
        self.browser.key("ArrowRight")
        strip = "document.querySelector('.strip')"
        self.assertIn("Enter shows", self.browser.run(strip + ".ariaValueText"))
        self.assertIn("64159", self.text(".passage mark"))
        self.browser.key("Enter")
        self.assertIn("Upelya", self.text(".passage mark"))
        self.assertIn("shown below", self.browser.run(strip + ".ariaValueText"))
        self.browser.key("Home")
        self.browser.key(" ")
        self.assertIn("64159", self.text(".passage mark"))

    def test_progress_and_stop(self):
        self.open()
        self.paste("#document", DOCUMENT)
        self.ask("slow", wait=False)
        self.browser.wait("Number(document.querySelector('.progress')?.ariaValueNow) > 40")
        self.assertIn("tokens read", self.text(".state"))
        self.picture("reading")
        self.browser.wait(LATEST + ".querySelector('.text').textContent.length > 4")
        self.browser.key("Escape")
        self.browser.wait(DONE)
        self.assertTrue(self.server.left.wait(10))
        self.assertIn("Stopped", self.text(".counts"))
        self.assertTrue(self.text(".answer .text").startswith("The p"))
        self.assertEqual(self.text(".answer .problem"), "")
        self.ask("slow once more", wait=False)
        self.browser.wait(LATEST + ".querySelector('.state').textContent.includes('read')")
        self.browser.click("#stop")
        self.browser.wait(DONE)
        self.assertEqual(self.focused(), "go")

    def test_without_attended(self):
        self.server.takes_attended = False
        self.open()
        self.paste("#document", DOCUMENT)
        self.ask("Old?")
        self.assertIn("64159", self.text(".answer .text"))
        self.assertEqual(self.text(".answer .problem"), "")
        self.assertTrue(self.browser.run("document.querySelector('.attended').hidden"))
        self.ask("Again?")
        self.assertEqual(["attended" in body for body in self.server.bodies],
                         [True, False, False])

    def test_errors(self):
        self.open()
        self.browser.click("#go")
        self.assertIn("no document", self.text("#ask-problem"))
        self.assertEqual(self.focused(), "document")
        self.browser.type("Some hay.")
        self.browser.click("#go")
        self.assertIn("no question", self.text("#ask-problem"))
        for question, *words in [
            ("busy", "busy", "7 seconds"),
            ("too long", "70,000 tokens", "256", "65,536"),
            ("far too long", "more than the 65,536 tokens", "Shorten"),
            ("loading", "loading", "2 seconds"),
            ("late", "longer than the server allows"),
            ("error", "ended early", "the server stopped"),
            ("gone", "connection", "lost"),
        ]:
            with self.subTest(question=question):
                self.ask(question)
                for word in words:
                    self.assertIn(word, self.text(".answer .problem"))
                self.assertTrue(self.browser.run("document.querySelector('.attended').hidden"))
        self.picture("errors")
        self.server.stop()
        self.ask("Anyone?")
        self.assertIn("cannot be reached", self.text(".answer .problem"))

    def test_ask_again(self):
        self.open()
        self.browser.click("#document")
        self.browser.type("Some hay.")
        self.ask("busy")
        self.browser.click(".again")
        self.browser.wait("document.querySelectorAll('.answer').length === 2")
        self.browser.wait(DONE)
        self.assertEqual(len(self.server.bodies), 2)

    def test_a_key(self):
        self.server.key = "secret"
        self.browser.open(self.server.url)
        self.browser.wait("!document.querySelector('#key-form').hidden")
        self.assertEqual(self.focused(), "key")
        self.picture("key")
        self.browser.type("clé")
        self.browser.key("Enter")
        self.assertIn("without spaces", self.text("#key-hint"))
        self.browser.type("wrong")
        self.browser.key("Enter")
        self.browser.wait("document.querySelector('#key-hint').textContent.includes('not accept')")
        self.browser.type("secret")
        self.browser.key("Enter")
        self.browser.wait("document.querySelector('#model').textContent !== ''")
        self.assertTrue(self.browser.run("document.querySelector('#key-form').hidden"))
        self.assertEqual(self.browser.run("localStorage.length + document.cookie.length"), 0)
        self.browser.open(self.server.url)
        self.browser.wait("document.querySelector('#model').textContent !== ''")
        self.browser.run("sessionStorage.clear()")

    def test_a_server_that_loads(self):
        self.server.loading = 2
        self.browser.open(self.server.url)
        self.browser.wait("document.querySelector('#notice').innerText.includes('loading')")
        self.browser.wait("document.querySelector('#model').textContent !== ''")
        self.assertTrue(self.browser.run("document.querySelector('#notice').hidden"))

    def test_files(self):
        self.open()
        with tempfile.TemporaryDirectory() as folder:
            book, other = os.path.join(folder, "book.txt"), os.path.join(folder, "other.bin")
            with open(book, "w", encoding="utf-8", newline="") as file:
                file.write("First line.\r\n" + DOCUMENT)
            with open(other, "wb") as file:
                file.write(b"\x7fELF\0\0")
            self.browser.choose_file("#file", other)
            self.browser.wait("document.querySelector('#document-problem').textContent !== ''")
            self.assertIn("other.bin: is not a plain text", self.text("#document-problem"))
            self.browser.choose_file("#file", book)
            self.browser.wait("!document.querySelector('#card').hidden")
            self.assertEqual(self.text("#card-name"), "book.txt")
        self.ask("What?")
        self.assertTrue(self.server.bodies[0]["prompt"].startswith("Read this. First line.\r\nA"))
        self.browser.click("#replace")
        self.assertEqual(self.focused(), "document")

    def test_a_drop(self):
        self.open()
        self.browser.run("""(() => {
            const data = new DataTransfer();
            data.items.add(new File(["Some hay."], "hay.txt", {type: "text/plain"}));
            document.querySelector("main").dispatchEvent(new DragEvent("drop",
                {dataTransfer: data, bubbles: true, cancelable: true}));
        })()""")
        self.browser.wait("document.querySelector('#card-name').textContent === 'hay.txt'")

    def test_a_document_of_megabytes(self):
        self.open()
        self.paste("#document", DOCUMENT * 20)
        self.ask("What?")
        self.assertIn("64159", self.text(".passage mark"))
        self.assertLess(self.browser.run("document.body.textContent.length"), 60000)

    def test_what_a_document_holds_is_text(self):
        self.open()
        evil = "<img src=x onerror=alert(1)> 64159 " * 200
        self.paste("#document", evil * 4)
        self.ask("<b>bold</b>?")
        self.assertEqual(self.text(".question"), "<b>bold</b>?")
        self.assertEqual(self.browser.run("document.querySelectorAll('img, b').length"), 0)
        self.assertIn("<img", self.text(".passage mark"))

    def test_it_fits(self):
        for width in (1280, 390, 320):
            for dark in (False, True):
                self.browser.view(width, 844, dark)
                self.open()
                self.paste("#document", DOCUMENT)
                self.ask("What is the pass key?")
                wide = self.browser.run("document.documentElement.scrollWidth")
                self.assertLessEqual(wide, width)
                ground = self.browser.run("getComputedStyle(document.body).backgroundColor")
                self.assertEqual(ground, "rgb(20, 21, 23)" if dark else "rgb(250, 250, 248)")
        self.browser.view(1280, 900)


class ServerTest(BrowserCase):
    def test_the_server(self):
        server = Server(BINARY, SOURCE)
        self.addCleanup(server.stop)
        self.browser.open(f"http://127.0.0.1:{server.port}/")
        self.browser.wait("document.querySelector('#model').textContent !== ''")
        self.assertEqual(self.text("#model"), "model, up to 4,096 tokens")
        self.browser.click("#document")
        self.browser.type("needle in hay. " * 100)
        self.browser.run("document.querySelector('#max-tokens').value = 24")
        self.ask("Where?")
        self.assertEqual(self.text(".answer .problem"), "")
        self.assertIn("1,507 tokens read", self.text(".counts"))
        self.assertGreater(self.browser.run(PEAKS), 0)
        marked = self.browser.run("document.querySelector('.passage mark').textContent")
        self.assertTrue(marked)
        self.assertIn(marked, "needle in hay. " * 3)

        self.browser.run("document.querySelector('#max-tokens').value = 4096")
        self.ask("Too many?")
        self.assertIn("4,096", self.text(".answer .problem"))
        self.paste("main", "x" * 190000)  # the server takes bodies of 200,000 bytes
        self.ask("Long?")
        self.assertIn("more than the 4,096", self.text(".answer .problem"))
        self.browser.run("document.querySelector('#replace').click()")
        self.paste("main", "x" * 300000)
        self.ask("Longer?")
        self.assertIn("larger than this server takes", self.text(".answer .problem"))

    def test_stopping_frees_the_cache(self):
        server = Server(BINARY, SOURCE, max_model_len=200000)
        self.addCleanup(server.stop)
        self.browser.open(f"http://127.0.0.1:{server.port}/")
        self.browser.wait("document.querySelector('#model').textContent !== ''")
        self.paste("main", "needle in hay. " * 8000)
        self.ask("Where?", wait=False)
        self.browser.wait("document.querySelector('.state')?.textContent.includes('read')")
        self.browser.key("Escape")
        self.browser.wait(DONE)
        self.assertTrue(server.wait_for(
            lambda: server.metric("longspan:num_requests_running") == 0))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
