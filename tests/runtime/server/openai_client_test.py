"""The server as OpenAI's own Python package sees it, unmodified.

openai_client_test.py BINARY SOURCE_DIR [unittest arguments]; exit code 77 without the package.
"""

import asyncio
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
try:
    import openai
except ImportError:
    print("skipped: no package openai; pip install -r tests/runtime/server/requirements.txt")
    sys.exit(77)
from serving import Server  # noqa: E402

BINARY, SOURCE = sys.argv[1:3]
PROMPT = "needle in hay. " * 10
GREEDY = {"temperature": 0, "extra_body": {"ignore_eos": True}}


class OpenAiClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(BINARY, SOURCE, environment={"LONGSPAN_API_KEY": "sk-test"})
        cls.url = f"http://127.0.0.1:{cls.server.port}/v1"
        cls.client = openai.OpenAI(base_url=cls.url, api_key="sk-test", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_models(self):
        models = self.client.models.list().data
        self.assertEqual([model.id for model in models], ["model"])

    def test_completions(self):
        whole = self.client.completions.create(model="model", prompt=PROMPT, max_tokens=8,
                                               logprobs=1, **GREEDY)
        self.assertEqual(whole.usage.completion_tokens, 8)
        self.assertEqual(len(whole.choices[0].logprobs.tokens), 8)
        stream = self.client.completions.create(
            model="model", prompt=PROMPT, max_tokens=8, stream=True,
            stream_options={"include_usage": True}, **GREEDY)
        chunks = list(stream)
        self.assertEqual(chunks[-1].usage.completion_tokens, 8)
        self.assertEqual("".join(c.choices[0].text for c in chunks[:-1]), whole.choices[0].text)

    def test_chat(self):
        messages = [{"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        whole = self.client.chat.completions.create(
            model="model", messages=messages, max_completion_tokens=8, logprobs=True,
            top_logprobs=3, seed=1, **GREEDY)
        choice = whole.choices[0]
        self.assertEqual((choice.message.role, choice.finish_reason), ("assistant", "length"))
        self.assertEqual(len(choice.logprobs.content), 8)
        self.assertEqual(len(choice.logprobs.content[0].top_logprobs), 3)
        with self.client.chat.completions.create(model="model", messages=messages, stream=True,
                                                 max_tokens=8, **GREEDY) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        self.assertEqual(text, choice.message.content)

    def test_chat_helpers(self):
        with self.client.chat.completions.stream(
                model="model", messages=[{"role": "user", "content": "Hi"}], max_tokens=5,
                **GREEDY) as stream:
            self.assertIn("content.delta", [event.type for event in stream])
            self.assertEqual(stream.current_completion_snapshot.choices[0].finish_reason, "length")

    def test_as_langchain_asks(self):
        # Lists of prompts, and every parameter at its default.
        answer = self.client.completions.create(
            model="model", prompt=["first", "second"], n=1, top_p=1, frequency_penalty=0,
            presence_penalty=0, max_tokens=4, temperature=0.7, seed=5)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])

    def test_many_at_once(self):
        async def ask():
            client = openai.AsyncOpenAI(base_url=self.url, api_key="sk-test", max_retries=0)
            answers = await asyncio.gather(*[
                client.completions.create(model="model", prompt=f"{i} {PROMPT}", max_tokens=6,
                                          **GREEDY) for i in range(10)])
            await client.close()
            return [answer.choices[0].text for answer in answers]

        together = asyncio.run(ask())
        alone = [self.client.completions.create(model="model", prompt=f"{i} {PROMPT}", max_tokens=6,
                                                **GREEDY).choices[0].text for i in range(10)]
        self.assertEqual(together, alone)

    def test_errors_are_the_packages_own(self):
        ask = self.client.completions.create
        with self.assertRaises(openai.BadRequestError) as caught:
            ask(model="model", prompt="a", max_tokens=100000)
        self.assertIn("max_model_len", caught.exception.message)
        with self.assertRaises(openai.NotFoundError) as caught:
            ask(model="other", prompt="a")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=self.url, api_key="wrong", max_retries=0).models.list()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
