#!/usr/bin/env python3
"""Makes tests/eval/testdata/metrics.json: what the published metrics of LongBench and InfiniteBench
give answers of ours.

make_metric_fixtures.py --longbench DIR --infinitebench DIR, with checkouts of both repositories.
Needs rouge, rouge_score and fuzzywuzzy (without python-Levenshtein, as LongBench's requirements
have it). Random texts are of a fixed seed.
"""

import argparse
import importlib.metadata
import json
import random
import subprocess
import sys
import types
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "tests/eval/testdata/metrics.json"
FOUR = ["Bob", "Cid Doe", "Ann", "Dot"]

# Data sets, what a line of them has, and answers of a model.
LONGBENCH = [
    ("hotpotqa", {"answers": ["Ann Lee", "The A. Lee!"]}, ["ann  lee", "a Lee", "Bob", "Lee, the Lee"]),
    ("trec", {"answers": ["Big City"], "all_classes": ["City", "Big", "Big City", "State"]},
             ["\n\nBig City\nState", "State or Big City", "City", "x\nBig City", "big city"]),
    ("lsht", {"answers": ["体育新闻"], "all_classes": ["体育", "新闻", "体育新闻", "财经"]},
             ["\n体育新闻\n财经", "财经，体育新闻", "体育", ""]),
    ("triviaqa", {"answers": ["Rome"]}, ["\n\n\nRome\nParis", "Rome now", " \nRome", ""]),
    ("samsum", {"answers": ["Ann left. Bob stays."]},
               ["\nAnn left.\nDialogue: x", "Bob stays. Ann left.", "\n\n Ann stays", " . "]),
    ("passage_count", {"answers": ["12"]}, ["12", "12 or 13", "012", "twelve"]),
    ("passage_retrieval_en", {"answers": ["Paragraph 3"]}, ["3", "Paragraph 3, not 4", "13"]),
    ("passage_retrieval_zh", {"answers": ["段落7"]}, ["段落7", "7或者8", "段落17"]),
    ("lcc", {"answers": ["    return self.value + 1"]},
            ["\n\n# a comment\n    return self.value\nx", "    return 1 + self.value", "```\n", "//",
             "    return self.value + 1", "def f():"]),
]
INFINITEBENCH = [
    ("passkey", {"answer": ["71432"]}, ["71432, of 9", "9 71432", " the key is 71432.", ""]),
    ("number_string", {"answer": ["0012"]}, ["0012", "12", "x0012y 3"]),
    ("kv_retrieval", {"answer": "a-b-1"}, ['{"a-b-1"}', "a-b-12", "is: 'a-b-1'."]),
    ("longbook_qa_eng", {"answer": ["Ann Lee", "Lee"]}, ["the Lee", "Ann's Lee", "Bob"]),
    ("longbook_qa_chn", {"answer": ["红楼梦"]},
                        ["《红楼梦》。", "红 楼", "〈红楼梦〉", "水", "“红楼梦”…", "｢红楼梦｣﹏"]),
    ("longbook_sum_eng", {"answer": "It rains.\nIt pours on them."},
                         ["it pours.\nIt rains", "On them it rains\nand it pours", "Sun"]),
    ("longdialogue_qa_eng", {"answer": ["ANN"]}, ["Ann, I think", "Anna", '"ann"']),
    ("longbook_choice_eng", {"answer": ["Cid Doe"], "options": FOUR},
                            ["B", "B. Bob", " \nD", "Cid Doe", "So the answer is:\n\"B\"",
                             "the answer is Cid  Doe, I say", "the answer is", "the option is D",
                             "perhaps (B)", "I would say: AB or B", "  ", "it is A. Or B", "Cid"]),
    ("longbook_choice_eng", {"answer": "Eve", "options": ["Zoe", "Eve", "Fay", "Gus"]},
     ["Eve", " Eve\n", "Eve, I think", "Perhaps Eve", "It is E B", "answer is Eve"]),
    ("code_debug", {"answer": ["ann", "C"], "options": FOUR}, ["the answer is: ann"]),
    ("code_debug", {"answer": ["Ann", "C"], "options": FOUR},
                   ["C.", "C: it fails", "C", "The answer is: Ann", "The answer is: Option C",
                    "The correct option is:\n\n**C**", "answer: `Ann`", "it is:  C", "answer is:",
                    "answer is: B", "- C.", "the answer is C"]),
    ("code_run", {"answer": -7}, ["It is -7.", "7", "-7", "'-7'", "-7 or", "-7.0", ""]),
    ("math_find", {"answer": 42}, ["42", "x 42 43", "-42", "41", ""]),
    ("math_calc", {"answer": [[1, 4, -8, 10]]},
                  ["[1, 4, 8, 10]", "1 4", "01, 04", "2 4", "[1, 4, -8, 10]", ""]),
]
# Placeholders that the published code fills in from a line.
PROMPTS = {
    "code_run": ("{func}|{func_call}|{context}",
                 {"input": "Please give me the value of func_12(-34).", "context": "def func_12(x)"}),
    "math_find": ("{prefix}|{context}|{input}",
                  {"input": "Be short. The largest number of the list is of", "context": "[1, 2]"}),
}


def stub(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


class RougeOfEvaluate:
    """What `evaluate.load("rouge")` does."""

    def compute(self, predictions, references, use_aggregator):
        from rouge_score import rouge_scorer
        scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=False)
        return {"rougeLsum": [scorer.score(reference, answer)["rougeLsum"].fmeasure
                              for answer, reference in zip(predictions, references)]}


def random_pairs(random_, words, separators, count):
    for _ in range(count):
        yield tuple("".join(random_.choice(words) + random_.choice(separators)
                            for _ in range(random_.randint(4, 24))) for _ in range(2))


def metric_cases():
    from fuzzywuzzy import fuzz
    from rouge import Rouge
    from rouge_score import rouge_scorer
    scorer = rouge_scorer.RougeScorer(["rougeLsum"])
    random_ = random.Random(1)
    words = list("abcde")
    for answer, reference in random_pairs(random_, words, " " * 4 + ".", 40):
        score = Rouge().get_scores(answer, reference)[0]["rouge-l"]["f"]
        yield {"metric": "RougeL", "answer": answer, "reference": reference, "score": score}
    for answer, reference in random_pairs(random_, words, " " * 4 + "\n", 40):
        score = scorer.score(reference, answer)["rougeLsum"].fmeasure
        yield {"metric": "RougeLsum", "answer": answer, "reference": reference, "score": score}
    texts = [*random_pairs(random_, words + ["é"], ["", "", " "], 30), ("", ""), ("", "a"), ("a", "")]
    # Popular characters of texts of 200 and more begin no match.
    long = "".join(random_.choice("abcdefghijklmnopqrstuvwxyz(){}= ") for _ in range(260))
    texts += [(long[7:90] + long[120:], long), (long, long[::-1]), (long[:150], long[:199])]
    for answer, reference in texts:
        yield {"metric": "Similarity", "answer": answer, "reference": reference,
               "score": fuzz.ratio(answer, reference) / 100}


def longbench_cases():
    import eval as longbench
    for data_set, line, answers in LONGBENCH:
        for answer in answers:
            score = longbench.scorer(data_set, [answer], [line["answers"]],
                                     line.get("all_classes"))
            yield {"longbench": data_set, "line": line, "answer": answer, "score": score / 100}


def infinitebench_cases():
    import compute_scores
    import eval_utils
    for data_set, line, answers in INFINITEBENCH:
        for answer in answers:
            label = eval_utils.get_answer(line, data_set)
            score = compute_scores.get_score_one(answer, label, data_set, "yarn-mistral")
            yield {"infinitebench": data_set, "line": line, "answer": answer, "score": score}
    for data_set, (template, line) in PROMPTS.items():
        eval_utils.MODEL_TO_PROMPT_TEMPLATE = {"ours": {data_set: template}}
        yield {"infinitebench": data_set, "line": {**line, "answer": 1}, "template": template,
               "prompt": eval_utils.create_prompt(dict(line), data_set, "ours", ".")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longbench", type=Path, required=True)
    parser.add_argument("--infinitebench", type=Path, required=True)
    arguments = parser.parse_args()
    stub("jieba"), stub("tqdm", tqdm=iter), stub("args", parse_args=None)
    stub("evaluate", load=lambda name: RougeOfEvaluate())
    sys.path[:0] = [str(arguments.longbench / "LongBench"), str(arguments.infinitebench / "src")]
    versions = [f"{package} {importlib.metadata.version(package)}"
                for package in ("rouge", "rouge_score", "fuzzywuzzy")]
    for directory in arguments.longbench, arguments.infinitebench:
        commit = subprocess.run(["git", "-C", directory, "rev-parse", "HEAD"], check=True,
                                capture_output=True, text=True).stdout.strip()
        versions.append(f"{directory.name} {commit[:12]}")
    cases = [*metric_cases(), *longbench_cases(), *infinitebench_cases()]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    comment = json.dumps("Made by tools/make_metric_fixtures.py with " + ", ".join(versions))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text('{"comment": %s,\n"cases": [\n%s\n]}\n' % (comment, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
