#!/usr/bin/env python3
"""Seeded retrieval tasks over a haystack: documents, questions, expected answers.

Five tasks: `passkey` (one pass key), `magic` (magic numbers of named things), `island` (legendary
items hidden on islands), `kv` (key/value pairs of hex strings), `penguin` (numbers that a penguin
counted: collect them all, in order). A document is lines of haystack with the facts strewn in as
lines of their own; a prompt is the document and one question:

    ...
    Question: What is the magic number of the amber kettle?

and a newline; the completion is `Answer: 481516` and ends at a newline. The same seed always gives the same
document. The haystack is the built-in generator or the paragraphs of a text file.

    needle_tasks.py generate --tokenizer models/needle --task passkey --tokens 32768 --cases 100 \
        --seed 1 --output in.jsonl --expected expected.jsonl
    longspan generate --config configs/needle.yaml --input in.jsonl --output out.jsonl
    needle_tasks.py score --expected expected.jsonl --output out.jsonl

`generate` is the default and needs the Python package `tokenizers`; `score` needs none.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import sys

TASKS = ("passkey", "magic", "island", "kv", "penguin")
# What a document of the task `mixed` holds: facts a task.
MIXED = {"passkey": 1, "magic": 8, "island": 8, "kv": 8}
FACTS = {"passkey": 1, "magic": 8, "island": 8, "kv": 8, "penguin": 4}
STOP = "\n"

ADJECTIVES = (
    """amber ancient azure bitter brass bright bronze calm carved cedar clever cobalt copper
coral crimson crooked curious dusty ebony emerald faded fierce frosty gentle gilded golden granite
hollow humble idle iron ivory jade jolly lacquered linen lively lonely marble mellow misty modest
mossy narrow noble opal painted pale patient pewter plain polished proud purple quiet rapid rusty
sandy scarlet silent silver slender solemn spotted steady striped sturdy sunny tangled tiny velvet
violet weary wild woven yellow""".split()
)
THINGS = (
    """anchor anvil apron badge barrel basket beacon bell bench bottle bridge bucket cabin candle
canoe carpet cart castle chair chest chimney clock cloak compass cradle curtain dagger desk door
drum fiddle flute fountain garden gate goblet hammer harp helmet kettle kite ladder lamp lantern
ledger lute mallet map mask mirror mitten needle oar oven parcel pillow plough quilt rope saddle
scarf shelf shovel sickle spade spoon statue stove sundial table teapot tower trumpet trunk umbrella
urn vase violin wagon wheel whistle windmill""".split()
)
TREASURES = (
    """Amulet Arrow Banner Blade Book Bow Bowl Bracelet Brooch Chalice Cloak Crown Cup Diadem
Eye Feather Flame Gauntlet Girdle Hammer Harp Heart Helm Horn Idol Jewel Key Lance Mantle Mask Mirror
Orb Pearl Pendant Quill Ring Robe Sceptre Scroll Seal Shield Skull Spear Staff Star Sword Tablet Throne
Torch Veil""".split()
)
ESSENCES = (
    """Ash Autumn Bone Chaos Clouds Courage Dawn Destiny Dreams Dusk Echoes Embers Eternity Fate
Fire Frost Glass Glory Honour Hope Ice Justice Kings Light Lightning Memory Midnight Mist Moonlight
Night Oaths Patience Rain Ravens Rivers Salt Serpents Shadows Silence Sorrow Stars Storms Thorns
Thunder Tides Time Truth Twilight Whispers Winds Winter Wisdom Wolves""".split()
)
SYLLABLES = (
    """al ar ba bel bor ca cor da del dor el en fa fen gal gor ha hel il is ja kal kir la lin
lor ma mer mir na nel nor o or pa pel quo ra ren ri ro sa sel sor ta tel thal tor u ul va vel vor wen
ya yor za zen""".split()
)
ENDINGS = "a ara en eth ia in is on ora os und ya".split()

PEOPLE = """baker banker barber brewer builder butcher captain carpenter clerk cobbler cook cooper doctor
driver farmer ferryman fisherman gardener glazier goldsmith grocer guard gunsmith hatter hunter innkeeper
jeweller judge juggler lawyer librarian locksmith mason mayor merchant messenger miller miner musician
nurse painter pilot poet porter potter printer sailor scholar schoolmaster shepherd singer smith soldier
stranger student surgeon tailor tanner teacher thatcher traveller trader watchmaker weaver widow""".split()
ANIMALS = (
    """badger bear beaver cat crow deer dog donkey duck eagle fox frog goat goose hare hawk hedgehog
heron horse lamb lizard mole mouse mule otter owl ox pigeon pony rabbit raven robin seal sheep sparrow
squirrel stork swan toad trout turtle weasel wolf wren""".split()
)
GOODS = (
    """apples barley beans beer books bread bricks butter buttons cabbages candles cheese cherries
chestnuts cider cloth coal coffee corn eggs feathers figs firewood flour grapes hay herbs herrings honey
hops ink lemons letters lime mushrooms mustard nails nuts oats oil olives onions oranges paper pears
pepper plums potatoes ribbons rice rope rye salt seeds shoes silk soap spices stones straw sugar tea
tiles timber tobacco tools turnips vinegar walnuts wax wheat wine wool yarn""".split()
)
PLACES = (
    """abbey bakery bank barn bay bridge brewery canal cathedral cave cellar chapel church cliff
coast college corner courtyard crossroads dock farm ferry field forest fountain fortress garden
graveyard harbour hill hospital inn island lake library lighthouse market meadow mill mine monastery
moor mountain museum orchard palace park pier pond port prison quarry quay river road school shore
shop square stable station street tavern temple theatre tower town valley village vineyard wall well
wharf wood workshop yard""".split()
)
VERBS = """bought borrowed brought carried collected counted delivered described divided dropped examined
exchanged fetched found gathered guarded hid inspected kept lifted loaded lost measured mended moved
noticed offered ordered packed painted piled praised promised received refused remembered removed repaired
returned sold sorted stacked stole stored tasted threw traded unpacked wanted washed weighed wrapped""".split()
MOVES = (
    """came climbed crept drifted drove fled galloped hurried limped marched ran returned rode rowed
sailed sneaked strolled swam travelled walked wandered went""".split()
)
TIMES = """After breakfast|After the harvest|At dawn|At dusk|At first|At last|At midnight|At noon|Before
supper|Before the war|By evening|Every autumn|Every Friday|Every morning|In April|In December|In the
afternoon|In the evening|In the meantime|In the morning|In the spring|Last summer|Late at night|Long
ago|Later that day|Next winter|Now and then|Often|On Monday|On Sunday|On the third day|Once more|One
day|Some years later|Sometimes|Soon|That night|The next day|Then|Twice a year|Two weeks later""".replace(
    "\n", " "
).split(
    "|"
)
FEELINGS = (
    """afraid angry anxious ashamed bored careful cheerful cold content curious disappointed eager
glad grateful happy hungry jealous lonely lucky nervous pleased proud puzzled relieved restless sad sleepy
sorry surprised suspicious thirsty tired worried""".split()
)
WEATHER = """clear cloudy cold cool damp dark dry foggy freezing grey hot icy mild misty rainy snowy
stormy sunny warm wet windy""".split()


def builtin_sentence(r):
    """One sentence of the built-in haystack."""
    c = r.choice
    kind = r.randrange(14)
    if kind == 0:
        return f"{c(TIMES)} the {c(PEOPLE)} {c(VERBS)} the {c(GOODS)} near the {c(PLACES)}."
    if kind == 1:
        return f"The {c(ADJECTIVES)} {c(THINGS)} stood beside the {c(PLACES)}, and the {c(PEOPLE)} {c(VERBS)} it."
    if kind == 2:
        return f"{c(TIMES)} a {c(ANIMALS)} {c(MOVES)} from the {c(PLACES)} to the {c(PLACES)}."
    if kind == 3:
        return f"It was {c(WEATHER)} and {c(WEATHER)}, so the {c(PEOPLE)} {c(VERBS)} the {c(GOODS)} at home."
    if kind == 4:
        return f"The {c(PEOPLE)} was {c(FEELINGS)} because the {c(PEOPLE)} {c(VERBS)} the {c(ADJECTIVES)} {c(THINGS)}."
    if kind == 5:
        return (
            f"Nobody at the {c(PLACES)} knew why the {c(ANIMALS)} {c(MOVES)} over the {c(PLACES)}."
        )
    if kind == 6:
        return f"There were {r.randrange(2, 100)} {c(GOODS)} in the {c(THINGS)} by the {c(PLACES)}."
    if kind == 7:
        return f"In {r.randrange(1500, 1990)} the {c(PEOPLE)} {c(VERBS)} {r.randrange(2, 4000)} sacks of {c(GOODS)}."
    if kind == 8:
        return f'"Have you {c(VERBS)} the {c(GOODS)}?" asked the {c(FEELINGS)} {c(PEOPLE)}.'
    if kind == 9:
        return (
            f"A {c(FEELINGS)} {c(ANIMALS)} sat under the {c(THINGS)} and watched the {c(PEOPLE)}."
        )
    if kind == 10:
        return f"The road to the {c(PLACES)} is long, and the {c(PLACES)} lies {r.randrange(2, 90)} miles beyond it."
    if kind == 11:
        return f"The {c(PEOPLE)} paid {r.randrange(2, 900)} coins for the {c(ADJECTIVES)} {c(THINGS)} and some {c(GOODS)}."
    if kind == 12:
        return f"{c(TIMES)} it grew {c(WEATHER)}, and the {c(PEOPLE)} felt {c(FEELINGS)}."
    return (
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    )


def builtin_line(r):
    """One line (a paragraph) of the built-in haystack, without its newline."""
    return " ".join(builtin_sentence(r) for _ in range(r.randrange(1, 6)))


class BuiltinHaystack:
    """Endless generated lines."""

    name = "builtin"

    def lines(self, r):
        while True:
            yield builtin_line(r)


class TextHaystack:
    """The paragraphs of a text, from a random place on, round and round."""

    def __init__(self, path):
        self.name = os.path.basename(path)
        with open(path, encoding="utf-8") as f:
            self.paragraphs = [line for line in (p.strip() for p in f) if line]
        if not self.paragraphs:
            raise ValueError(f"{path} holds no text")

    def lines(self, r):
        at = r.randrange(len(self.paragraphs))
        while True:
            yield self.paragraphs[at % len(self.paragraphs)]
            at += 1


@dataclasses.dataclass
class Fact:
    task: str
    needles: list  # lines, without newline, in the order in which they must appear
    questions: list  # ways to ask, each without "Question: " and newline
    answer: str  # without the leading space and the final newline


def island_name(r):
    return (
        "".join(r.choice(SYLLABLES) for _ in range(r.randrange(1, 3))) + r.choice(ENDINGS)
    ).capitalize()


def hex_string(r, n=8):
    return "".join(r.choice("0123456789abcdef") for _ in range(n))


def make_facts(task, count, r):
    """`count` facts of a task that do not contradict each other. passkey: always one."""
    if task == "passkey":
        key = str(r.randrange(10000, 100000))
        return [
            Fact(
                task,
                [f"The pass key is {key}. Remember it. {key} is the pass key."],
                ["What is the pass key?"],
                key,
            )
        ]
    if task == "penguin":
        numbers = r.sample(range(10, 1000), count)
        return [
            Fact(
                task,
                [f"The penguin counted {n} fish." for n in numbers],
                ["Which numbers did the penguin count?"],
                ", ".join(str(n) for n in numbers),
            )
        ]
    facts, seen = [], set()
    while len(facts) < count:
        if task == "magic":
            name = f"{r.choice(ADJECTIVES)} {r.choice(THINGS)}"
            value = str(r.randrange(10000, 1000000))
            fact = Fact(
                task,
                [f"The magic number of the {name} is {value}."],
                [f"What is the magic number of the {name}?"],
                value,
            )
        elif task == "island":
            name = f"{r.choice(TREASURES)} of {r.choice(ESSENCES)}"
            value = island_name(r)
            fact = Fact(
                task,
                [f"The legendary {name} is hidden on the island of {value}."],
                [f"On which island is the legendary {name} hidden?"],
                value,
            )
        elif task == "kv":
            name, value = hex_string(r), hex_string(r)
            fact = Fact(
                task,
                [f"The value of key {name} is {value}."],
                [f"What is the value of key {name}?"],
                value,
            )
        else:
            raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)} and mixed")
        if name not in seen and value not in seen:
            seen.update((name, value))
            facts.append(fact)
    return facts


def question_text(question):
    """What is appended to a document: a prompt ends with it.

    The model writes "Answer:" itself. So the first token that must be looked up is a decoded one,
    with a selection of its own; the last tokens of the prompt share theirs with their whole block.
    """
    return f"Question: {question}\n"


def answer_text(answer):
    """What follows, stop included."""
    return f"Answer: {answer}\n"


@dataclasses.dataclass
class Document:
    text: str  # ends with a newline
    tokens: int  # with the beginning-of-sequence token
    questions: list  # of (task, question, answer)

    def prompt(self, question):
        return self.text + question_text(question)


def load_tokenizer(path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(
        os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path
    )


class _Counter:
    """Token counts of lines. Lines are tokenised apart: a line break ends a token."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def many(self, lines):
        batch = self.tokenizer.encode_batch(
            [line + "\n" for line in lines], add_special_tokens=False
        )
        return [len(e.ids) for e in batch]

    def one(self, text):
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _filler(counter, tokens):
    """A line of exactly so many tokens, its newline included; None if there is none so short."""
    base, word = "And so it goes on", " on"
    extra = tokens - counter.one(base + ".\n")
    if extra < 0:
        return None
    line = base + word * extra + "."
    return line if counter.one(line + "\n") == tokens else None


def build_document(tokenizer, facts, tokens, seed, haystack=None, max_questions=None):
    """A document in which the longest prompt (document, question) has exactly `tokens` tokens.

    facts: {task: count}. Every fact is asked once, in random order, at most `max_questions` in all.
    """
    r = random.Random(f"needle/{seed}")
    haystack = haystack or BuiltinHaystack()
    counter = _Counter(tokenizer)
    all_facts = [f for task, count in facts.items() for f in make_facts(task, count, r)]
    questions = [(f.task, r.choice(f.questions), f.answer) for f in all_facts]
    r.shuffle(questions)
    questions = questions[:max_questions]
    needles = [n for f in all_facts for n in f.needles]
    bos = len(tokenizer.encode("").ids)
    longest = max(counter.one(question_text(q)) for _, q, _ in questions)
    budget = tokens - bos - longest - sum(counter.many(needles))
    if budget < 64:
        raise ValueError(f"{tokens} tokens do not hold the facts and a question")
    lines, counts, total = [], [], 0
    source = haystack.lines(r)
    while total < budget:
        batch = [next(source) for _ in range(256)]
        for line, n in zip(batch, counter.many(batch)):
            lines.append(line)
            counts.append(n)
            total += n
            if total >= budget:
                break
    filler = None
    while filler is None:  # replaces the last lines
        total -= counts.pop()
        lines.pop()
        filler = _filler(counter, budget - total) if budget > total else None
    lines.append(filler)
    # Where each needle goes: before a random line; the needles of one fact stay in order.
    slots = {}
    for f in all_facts:
        for needle, slot in zip(f.needles, sorted(r.randrange(len(lines)) for _ in f.needles)):
            slots.setdefault(slot, []).append(needle)
    out = []
    for i, line in enumerate(lines):
        here = slots.get(i, [])
        if len(here) > 1 and not any("penguin" in n for n in here):
            r.shuffle(here)
        out += here + [line]
    text = "\n".join(out) + "\n"
    count = bos + counter.one(text)
    if count + longest != tokens:
        raise AssertionError(f"document has {count} tokens, {tokens - longest} wanted")
    return Document(text, count, questions)


def facts_of(task, count=None):
    if task == "mixed":
        return dict(MIXED)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)} and mixed")
    return {task: 1 if task == "passkey" else (count or FACTS[task])}


def correct(completion, answer):
    """Whether a completion (stopped at the newline or not) is the answer, to the letter."""
    line = completion.lstrip("\n").split("\n", 1)[0]
    return line.removeprefix("Answer:").strip() == answer


def wilson(right, n, z=1.96):
    """The 95% Wilson interval of a share."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# ---- training sequences -------------------------------------------------------------------------


class TrainingSequences:
    """Token sequences for training: haystack with facts and questions strewn in.

    corpus: (tokens [N] uint16, line starts [L] int64): plain text, each line with its newline.
    """

    def __init__(self, tokenizer, corpus_tokens, line_starts, seed, builtin_lines=8000):
        self.r = random.Random(f"train/{seed}")
        self.tokenizer = tokenizer
        self.corpus = corpus_tokens
        self.starts = line_starts
        self.bos = tokenizer.encode("").ids
        lines = [builtin_line(self.r) + "\n" for _ in range(builtin_lines)]
        self.builtin = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]

    def _encode(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def plain(self, length):
        """Plain text: (tokens, weights)."""
        at = self.starts[self.r.randrange(len(self.starts))]
        at = min(at, len(self.corpus) - length)
        tokens = self.bos + self.corpus[at : at + length - len(self.bos)].tolist()
        return tokens, [0.3] * length

    def _facts(self):
        r = self.r
        facts = []
        if r.random() < 0.6:
            facts += make_facts("passkey", 1, r)
        if r.random() < 0.2:
            facts += make_facts("penguin", r.randrange(2, 6), r)
        for task in ("magic", "island", "kv"):
            if r.random() < 0.6:
                facts += make_facts(task, r.choice((1, 2, 3, 4, 6, 8, 10)), r)
        return facts or make_facts("kv", 3, r)

    def _haystack(self, budget):
        """Lines of about so many tokens, the last one cut to fit."""
        r, lines, total = self.r, [], 0
        builtin = r.random() < 0.4
        at = r.randrange(len(self.starts) - 1)
        while total < budget:
            if builtin:
                line = self.builtin[r.randrange(len(self.builtin))]
            else:
                if at + 1 >= len(self.starts):
                    at = 0
                line = self.corpus[self.starts[at] : self.starts[at + 1]].tolist()
                at += 1
            lines.append(line)
            total += len(line)
        return lines

    def retrieval(self, length):
        """Haystack, facts, questions, answers: (tokens, weights: 1 on answers, else 0.05)."""
        r = self.r
        while True:
            facts = self._facts()
            texts, events = [], []
            for f in facts:
                asked = 0 if r.random() < 0.15 else (2 if r.random() < 0.3 else 1)
                if f.task == "passkey":
                    asked = r.choice((1, 2, 2, 3))
                # Where: depth of the needles, then of the questions, in [0, 1].
                early = r.random() ** 1.5
                depths = (
                    sorted(early * r.random() for _ in f.needles) if len(f.needles) > 1 else [early]
                )
                for needle, depth in zip(f.needles, depths):
                    events.append((depth, len(texts), None))
                    texts.append(needle + "\n")
                for _ in range(asked):
                    depth = 1.0 if r.random() < 0.5 else depths[-1] + (1 - depths[-1]) * r.random()
                    events.append((depth, len(texts), len(texts) + 1))
                    texts.append(question_text(r.choice(f.questions)) + "Answer:")
                    texts.append(" " + f.answer + "\n")
            ids = self._encode(texts)
            budget = length - len(self.bos) - sum(len(i) for i in ids)
            if budget >= 200:
                break
        lines = self._haystack(budget)
        # The last line overshoots; it goes first, where the surplus is cut off.
        lines[0], lines[-1] = lines[-1], lines[0]
        tokens, weights = list(self.bos), [0.05] * len(self.bos)
        end = [e for e in events if e[0] >= 1.0]
        r.shuffle(end)
        inner = sorted((e for e in events if e[0] < 1.0), key=lambda e: (e[0], e[1]))
        at = 0
        for i, line in enumerate(lines):
            tokens += line
            weights += [0.05] * len(line)
            while at < len(inner) and inner[at][0] <= (i + 1) / (len(lines) + 1):
                self._emit(inner[at], ids, tokens, weights)
                at += 1
        for e in inner[at:] + end:
            self._emit(e, ids, tokens, weights)
        start, extra = len(self.bos), len(tokens) - length
        del tokens[start : start + extra], weights[start : start + extra]
        return tokens, weights

    @staticmethod
    def _emit(event, ids, tokens, weights):
        _, text, answer = event
        tokens += ids[text]
        weights += [0.05] * len(ids[text])
        if answer is not None:
            tokens += ids[answer]
            weights += [1.0] * len(ids[answer])


# ---- command line -------------------------------------------------------------------------------


def _open(path, mode):
    if path == "-":
        return sys.stdout if "w" in mode else sys.stdin
    return open(path, mode, encoding="utf-8")


def generate(args):
    tokenizer = load_tokenizer(args.tokenizer)
    haystack = TextHaystack(args.haystack) if args.haystack else None
    facts = facts_of(args.task, args.facts)
    per_document = args.questions_per_document
    made = 0
    with _open(args.output, "w") as out, _open(args.expected, "w") as expected:
        while made < args.cases:
            seed = f"{args.seed}/{args.task}/{args.tokens}/{made}"
            d = build_document(
                tokenizer, facts, args.tokens, seed, haystack, min(per_document, args.cases - made)
            )
            for task, question, answer in d.questions:
                name = f"{args.task}-{args.tokens}-{args.seed}-{made}"
                body = {
                    "model": args.model,
                    "prompt": d.prompt(question),
                    "max_tokens": args.max_tokens,
                    "temperature": 0,
                    "stop": STOP,
                }
                out.write(
                    json.dumps(
                        {
                            "custom_id": name,
                            "method": "POST",
                            "url": "/v1/completions",
                            "body": body,
                        },
                        ensure_ascii=False,
                    )
                    + "\n"
                )
                expected.write(
                    json.dumps(
                        {
                            "custom_id": name,
                            "task": task,
                            "tokens": args.tokens,
                            "question": question,
                            "answer": answer,
                        },
                        ensure_ascii=False,
                    )
                    + "\n"
                )
                made += 1


def demo(args):
    tokenizer = load_tokenizer(args.tokenizer)
    haystack = TextHaystack(args.haystack) if args.haystack else None
    facts = {"passkey": 1, "magic": 4, "island": 4, "kv": 3}
    d = build_document(tokenizer, facts, args.tokens, args.seed, haystack)
    want = {"passkey": 1, "magic": 2, "island": 2, "kv": 1}
    os.makedirs(args.directory, exist_ok=True)
    with open(os.path.join(args.directory, "document.txt"), "w", encoding="utf-8") as f:
        f.write(d.text)
    with open(os.path.join(args.directory, "questions.jsonl"), "w", encoding="utf-8") as f:
        for task, question, answer in d.questions:
            if want[task] > 0:
                want[task] -= 1
                f.write(json.dumps({"task": task, "question": question, "answer": answer}) + "\n")
    print(f"{args.directory}: {d.tokens} tokens, {len(d.text.encode())} bytes")


def score(args):
    with _open(args.expected, "r") as f:
        expected = [json.loads(line) for line in f if line.strip()]
    answers, errors = {}, 0
    with _open(args.output, "r") as f:
        for line in f:
            try:
                row = json.loads(line)
                answers[row["custom_id"]] = row["response"]["body"]["choices"][0]["text"]
            except (ValueError, KeyError, TypeError, IndexError):
                errors += 1
    cells = {}
    for e in expected:
        cell = cells.setdefault((e["task"], e["tokens"]), [0, 0])
        right = correct(answers.get(e["custom_id"], ""), e["answer"])
        cell[0] += right
        cell[1] += 1
        if args.show_wrong and not right:
            print(
                f"{e['custom_id']}: {e['question']} expected {e['answer']!r}, "
                f"got {answers.get(e['custom_id'])!r}"
            )
    print(f"{'task':10} {'tokens':>9} {'exact':>9} {'share':>7}  95% interval")
    for (task, tokens), (right, n) in sorted(cells.items(), key=lambda c: (c[0][1], c[0][0])):
        low, high = wilson(right, n)
        print(f"{task:10} {tokens:9} {right:4}/{n:<4} {right / n:7.1%}  {low:.1%} to {high:.1%}")
    if errors:
        print(f"{errors} output lines without an answer")


def main():
    argv = sys.argv[1:]
    if not argv or argv[0] not in ("generate", "score", "demo", "-h", "--help"):
        argv = ["generate"] + argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("generate", help="write batch requests and the expected answers")
    p.add_argument("--tokenizer", required=True, help="model directory or tokenizer.json")
    p.add_argument("--task", required=True, choices=TASKS + ("mixed",))
    p.add_argument(
        "--tokens",
        type=int,
        required=True,
        help="tokens of a prompt, exactly (the longest, if several share a document)",
    )
    p.add_argument("--cases", type=int, default=100, help="questions in all")
    p.add_argument("--questions-per-document", type=int, default=1)
    p.add_argument("--facts", type=int, help="facts of the task a document")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--haystack", help="text file, a paragraph a line; default: generated")
    p.add_argument("--model", default="needle")
    p.add_argument("--max-tokens", type=int, default=32)
    p.add_argument("--output", required=True)
    p.add_argument("--expected", required=True)
    p.set_defaults(run=generate)
    p = commands.add_parser("demo", help="write one document with questions of several tasks")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--tokens", type=int, default=36000)
    p.add_argument("--seed", default="demo")
    p.add_argument("--haystack")
    p.add_argument("--directory", required=True)
    p.set_defaults(run=demo)
    p = commands.add_parser("score", help="compare answers with the expected ones")
    p.add_argument("--expected", required=True)
    p.add_argument("--output", required=True, help="what longspan generate wrote")
    p.add_argument("--show-wrong", action="store_true")
    p.set_defaults(run=score)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
