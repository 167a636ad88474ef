#!/usr/bin/env python3
"""Makes tests/runtime/testdata/tokenizer: small tokenizer.json files, a corpus, expected ids.

Needs `pip install tokenizers` (made with 0.23.3). Without --train the committed tokenizer.json
files are kept and only the corpus and the expectations are written anew.

  corpus.json    [{"name", "text" | "hex" | "unit" and "count"}]; hex is of bytes that need not be
                 UTF-8, unit is repeated count times
  variants.json  {name: {"base": directory, "patch": JSON merge patch (RFC 7396) of tokenizer.json}}
  expected.json  {name: a digest for each text of the corpus}: half an FNV-1a of the ids without special
                 tokens and with them, then of their decoding without special tokens and with them
  stress.json    {name: {"texts": such digests of long texts, which stress_texts() draws from the
                 corpus, "decoded": digests of the decodings of what stress_ids() draws}}
"""

import argparse
import json
import pathlib
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/runtime/testdata/tokenizer"

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_PATTERN = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SCRIPTS = {
    "latin":
    "The quick brown fox jumps over the lazy dog; it's what they've said we'll "
    "do, isn't it?",
    "german": "Größenwahn im Straßenverkehr: Äpfel, Öl und Übermut kosten 12,50 € pro Stück.",
    "french": "L'été dernier, j'ai aperçu un cœur naïf à Noël — « déjà-vu », dit-elle.",
    "vietnamese": "Tôi đã đọc quyển sách này ở thư viện; nó rất hay và đáng để đọc lại.",
    "turkish": "İstanbul'da yağmur yağıyor, ığdır'da ise güneş var. DİYARBAKIR ılık.",
    "decomposed": "Cafe\u0301 nai\u0308ve A\u030angstro\u0308m e\u0301\u0323\u0302",
    "greek": "Η γρήγορη αλεπού πηδάει πάνω από το σκυλί. Ὦ ξεῖν᾽, ἀγγέλλειν Λακεδαιμονίοις",
    "cyrillic": "Съешь ещё этих мягких французских булок, да выпей же чаю. Їжак і ґава.",
    "armenian": "Բարև աշխարհ, այսօր եղանակը լավ է։",
    "georgian": "გამარჯობა მსოფლიო, დღეს კარგი ამინდია. ᲛᲗᲐᲕᲠᲣᲚᲘ",
    "hebrew": "שלום עולם, הספר נמצא על השולחן. בְּרֵאשִׁית בָּרָא",
    "arabic": "مرحبا بالعالم، الكتاب على الطاولة. السَّلَامُ عَلَيْكُمْ ١٢٣٤",
    "persian": "می‌خواهم به خانه بروم؛ امروز هوا خوب است ۱۲۳۴.",
    "syriac": "ܫܠܡܐ ܥܠܟܘܢ",
    "devanagari": "नमस्ते दुनिया, आज मौसम अच्छा है। क्षत्रिय १२३४",
    "bengali": "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি। ৩৪৫",
    "gurmukhi": "ਸਤ ਸ੍ਰੀ ਅਕਾਲ ਦੁਨੀਆ ੧੨੩",
    "gujarati": "નમસ્તે વિશ્વ, આજે હવામાન સારું છે. ૪૫૬",
    "oriya": "ନମସ୍କାର ଦୁନିଆ ୭୮",
    "tamil": "வணக்கம் உலகம், இன்று வானிலை நன்றாக உள்ளது. ௧௨௩",
    "telugu": "నమస్కారం ప్రపంచం, ఈ రోజు వాతావరణం బాగుంది ౧౨",
    "kannada": "ನಮಸ್ಕಾರ ಜಗತ್ತು ೧೨೩",
    "malayalam": "നമസ്കാരം ലോകം ൧൨൩ ന്‍റെ",
    "sinhala": "ආයුබෝවන් ලෝකය ශ්‍රී ලංකාව",
    "thai": "สวัสดีชาวโลก วันนี้อากาศดี ราคา ๑๒๓ บาท",
    "lao": "ສະບາຍດີຊາວໂລກ ໑໒໓",
    "tibetan": "བཀྲ་ཤིས་བདེ་ལེགས། ༡༢༣",
    "myanmar": "မင်္ဂလာပါ ကမ္ဘာလောက ၁၂၃",
    "khmer": "សួស្តី​ពិភពលោក ១២៣",
    "ethiopic": "ሰላም ልዑል ዓለም፡ ፩፪፫",
    "cherokee": "ᎣᏏᏲ ᎡᎶᎯ ꭰꮄ",
    "canadian": "ᐃᓄᒃᑎᑐᑦ ᓄᓇᕗᑦ",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ\u180eᠪᠢᠴᠢᠭ ᠑᠒",
    "chinese": "今天天气很好，我们去公园散步吧。一二三４５６，繁體字與简体字。",
    "japanese": "吾輩は猫である。名前はまだ無い。カタカナとﾊﾝｶｸ、「引用」です。",
    "korean": "안녕하세요 세계, 오늘은 날씨가 좋네요. ㄱㄴㄷ 한글",
    "hangul_jamo": "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "yi": "ꆈꌠꉙ ꀀꀁ",
    "gothic": "𐌲𐌿𐍄𐌹𐍃𐌺𐌰 𐍂𐌰𐌶𐌳𐌰",
    "cuneiform": "𒀀𒁀𒂀 𒐕𒐖",
    "hieroglyphs": "𓀀𓁐𓂀𓆣",
    "math": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → γ; 𝒜𝔅ℂ 𝟘𝟙𝟚 ½ ¾ x² y₃ Ⅳ ⅷ ①②",
    "mixed": "user123 имеет 5万円 и ३ आम; naïve_Ωmega-βeta/東京2020",
}

EMOJI = {
    "emoji": "😀😃😄 ok 👍 done 🎉🎉",
    "emoji_zwj": "👨‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 ❤️‍🔥 🧑🏿‍🤝‍🧑🏻",
    "emoji_flags": "🇯🇵🇫🇷 🇧🇷🇺🇳🇪🇺 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "emoji_skin": "👋🏻👋🏼👋🏽👋🏾👋🏿 ✊🏽",
    "emoji_keycap": "1️⃣2️⃣#️⃣ ☎️☎︎ ™️©",
}

SPACES = {
    "empty": "",
    "space": " ",
    "spaces": "a  b   c    d     ",
    "leading": "   leading and trailing   ",
    "newlines": "one\ntwo\r\nthree\n\n\nfour\r\r  \n  five\n",
    "tabs": "\tif x:\n\t\treturn\t1\t\n",
    "unicode_spaces": "a\u00a0b\u2003c\u3000d\u2028e\u2029f\u0085g\u1680h\u202fi\u200bj\ufeffk"
    "\u180el",
    "space_then_newline": "word  \n  \n word \t \n",
    "vertical": "a\x0bb\x0cc\x1cd\x1de\x1ef\x1fg",
}

CONTROL = {
    "nul": "a\x00b\x00\x00c",
    "control": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "ascii": "".join(map(chr, range(32, 127))),
    "latin1": "".join(map(chr, range(0xA0, 0x100))),
    "bidi": "\u202eabc\u202c \u2066def\u2069 \u200e\u200f",
    "zero_width": "a\u200cb\u200dc\u2060d\u00ade",
    "noncharacters": "\ufffe\uffff\U0001fffe\U0010ffff\ufdd0\ue000\U000f0000",
    "combining_run": "a" + "\u0301" * 40,
    "replacement": "\ufffd\ufffd x \ufffd",
}

DIGITS = {
    "digits": "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9 -42 007",
    "digits_mixed": "abc123def456 v1.2.3 2024-11-24T03:13:26Z ٣٤٥ १२३ ４５６ Ⅻ ½ 𝟜𝟝 ²³",
    "penguin": "On day 17 the penguin counted 4096 fish, then 512, then 33.",
}

CODE = {
    "cpp": "template <typename T>\nabsl::StatusOr<T> Get(const std::vector<T>& v, size_t i) {\n"
    '  if (i >= v.size()) return absl::OutOfRangeError("i");  // don\'t\n  return v[i];\n}\n',
    "python": "def f(x: int = 3) -> str:\n    '''Doc.'''\n    return f\"{x!r:>{10}}\\n\"\n\n\n"
    "if __name__ == '__main__':\n    print(f(0b1010), end='')\n",
    "json": '{"a":[1,2.5,null,true],"b":{"c":"\\u00e9\\n"}}',
    "shell": 'for i in *.txt; do echo "$i" | sed -e \'s/\\(.*\\)/<\\1>/g\' >> "${OUT:-x}"; done',
    "html": "<p class=\"x\">A &amp; B</p>\n<!-- c --><br/>",
    "path": "https://example.org/a_b/c-d?e=f&g=%20h#i C:\\Users\\me ../../x",
    "markdown": "# Title\n\n* item **bold** _it_\n\n```\ncode\n```\n| a | b |\n|---|---|\n",
    "contractions": "I'm you're HE'S she'LL we'Ve they'D isn'T o'clock 'tis ''s 's'ſ don’t I'M'S",
    "case": "camelCase PascalCase SCREAMING_SNAKE ﬁne ĲSSEL ǅungla straẞe ΣΊΣΥΦΟΣ",
}

SPECIAL = {
    "special": "<|begin|>system<|end|> hello <|end|><|end|>\n<|begin|",
    "special_inside": "x<|end|>y <|en<|end|>d|> <|end|",
    "added": "a <mask> b<mask>c   <mask>\n\n d <pad> <pad>e <pad>  ",
    "added_words": "tok toks atok tok. éttok_tok tok\u200d tok-tok (tok) tok²tok½ tok_ tok",
    "added_long": "foo foobar foobarbaz fooba barfoo foofoobar",
    "added_unicode": "naïve é\u00e9 ÿ Ġ ġ Ā",
}

CHAT = {
    "chat_llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi!  [/INST] Hello </s><s> [INST]x[/INST]",
    "chat_qwen2": "<|im_start|>user\nHi!<|im_end|>\n <|im_start|>assistant\n<|endoftext|><|im_st",
    "special_spaces": " <s> a</s>b </s>  <unk><unk> <s>",
    "special_lower_block": "\u2581</s>\u2581<s>a \u2581<unk> x</s>\u2581",
    "byte_tokens": "<0x0A> <0xE2><0x96><0x81> x<0x41>",
    "lower_block": "\u2581a \u2581 b\u2581\u2581 c\u2581d \u2581\u2581\u2581",
    "unknown_runs": "a\u16a0\u16a1 \u16a2b\u16a3\u16a4\u16a5 \u2581\u16a6\n\u16a7",
}

NORMALIZED = {
    "nfc_marks": "e\u0301\u0323 A\u030a\u0301 o\u0323\u0302 q\u0307\u0323 \u0344 \u0958\u09dc \u212b\u2126",
    "nfc_hangul": "\u1100\u1161\u11a8 \uac00\u11a8 \u1100\u1161\u11a7 \ud55c\u11a7 \u1112\u1161",
    "nfc_kana": "\u304b\u3099\u306f\u309a \uff76\uff9e \u30fb",
    "nfc_newer": "\u0898\u0301a\u1abf\u0316 \U00011935\U00011930 \U0001e4ec\u0323 \u32ff \ua7f2",
    "nfkc": "\ufb01 \u2460 \uff21\uff22 \u00bd \ufdfa \u3392 \u2075 \U0001d400 \u00a0\u2003",
    "mark_first": "\u0301a\u0301 \u0301",
    "mark_after_special": "<s>\u0301x</s>\u0327 <|im_end|>\u0301",
}

LONG = {
    "run_a": ("a", 3000),
    "run_space": (" ", 3000),
    "run_newline": ("\n", 1500),
    "run_crlf": ("\r\n", 700),
    "run_digit": ("7", 600),
    "run_bang": ("!", 1500),
    "run_nul": ("\x00", 300),
    "run_cjk": ("好", 400),
    "run_emoji": ("👍🏽", 150),
    "run_ab": ("ab", 1500),
    "run_space_a": ("  a", 500),
    "run_special": ("<|end|>", 200),
    "run_bos": ("<s> ", 100),
    "run_lower_block": ("\u2581", 700),
    "run_rune": ("\u16a0", 300),
    "run_marks": ("\u0301\u0323", 300),
}


def random_bytes():
    rng = random.Random(20250214)
    cases = {
        "bytes_truncated": b"\xe2\x82 \xf0\x9f\x91 \xc3",
        "bytes_overlong": b"\xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf \xc1\xbf",
        "bytes_surrogates": b"\xed\xa0\x80\xed\xb0\x80 \xed\x9f\xbf",
        "bytes_beyond": b"\xf4\x90\x80\x80 \xf4\x8f\xbf\xbf \xf5\xff\xfe\x80",
        "bytes_latin1": "déjà vu à l'œil".encode("cp1252"),
        "bytes_mixed": b"ok \xe4\xbd\xa0\xe5 \xa5\xbd \x80\xbf\xf0\x9f\x98 \xf0\x9f\x98\x80",
    }
    for i in range(12):
        cases[f"bytes_random{i}"] = rng.randbytes(rng.randrange(1, 150))
    lead = bytes([0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0x80, 0x9F, 0xA0, 0xBF, 0x90, 0x41, 0x20])
    for i in range(8):
        cases[f"bytes_leads{i}"] = bytes(rng.choice(lead) for _ in range(100))
    return cases


def random_text():
    """Characters drawn so that the classes of the patterns meet in every order."""
    rng = random.Random(2502)
    ascii = "  \n\r\t'sStTdDlLrRveEmMaAzZ019.,!_-<|>[]\\/"
    alphabet = list(ascii + "éßſÉ好अी٣²Ⅳ\u0301\u00a0\u3000\u200d👍\x00")
    return {
        f"random{i}": "".join(rng.choices(alphabet, k=rng.randrange(1, 160))) for i in range(60)
    }


def make_corpus():
    corpus = []
    groups = (SCRIPTS, EMOJI, SPACES, CONTROL, DIGITS, CODE, SPECIAL, CHAT, NORMALIZED, random_text())
    for group in groups:
        corpus += [{"name": name, "text": text} for name, text in group.items()]
    corpus += [{"name": n, "unit": unit, "count": count} for n, (unit, count) in LONG.items()]
    corpus += [{"name": name, "hex": data.hex()} for name, data in random_bytes().items()]
    return corpus


def bytes_of(case):
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    return (case["text"] if "text" in case else case["unit"] * case["count"]).encode()


def text_of(case):
    return bytes_of(case).decode("utf-8", errors="replace")


class Draws:
    """A linear congruential generator (Knuth's MMIX) that the test has as well."""

    def __init__(self):
        self.state = 1

    def below(self, limit):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % limit


def stress_texts(corpus):
    """32 texts of 32 KiB and more, of pieces of the corpus; some are cut within a character."""
    pieces = [data for data in map(bytes_of, corpus) if data]
    draws = Draws()
    texts = []
    for _ in range(32):
        text = bytearray()
        while len(text) < 32768:
            piece = pieces[draws.below(len(pieces))]
            begin = draws.below(len(piece))
            end = min(len(piece), begin + 1 + draws.below(256))
            if draws.below(8) > 0:
                while begin > 0 and piece[begin] & 0xC0 == 0x80:
                    begin -= 1
                while end < len(piece) and piece[end] & 0xC0 == 0x80:
                    end += 1
            text += piece[begin:end]
            if draws.below(4) == 0:
                text += b" "
        texts.append(text.decode("utf-8", errors="replace"))
    return texts


def stress_ids(vocab_size):
    """8 lists of 2000 ids; half are low, where SentencePiece has its tokens of bytes."""
    draws = Draws()
    return [
        [draws.below(260 if draws.below(2) == 0 else vocab_size) for _ in range(2000)]
        for _ in range(8)
    ]


def training_texts():
    texts = [t for group in (SCRIPTS, EMOJI, SPACES, DIGITS, CODE) for t in group.values()]
    return texts + [pathlib.Path(__file__).read_text()]


def train(pre_tokenizer, vocab_size, special, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return tokenizer


LOWER_BLOCK = "\u2581"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def train_sentencepiece(pattern, vocab_size, control):
    """As SentencePiece does: spaces are tokens' beginnings, and rare characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(LOWER_BLOCK), normalizers.Replace(" ", LOWER_BLOCK)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(LOWER_BLOCK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=control[:3] + BYTE_TOKENS + control[3:],
        limit_alphabet=220,
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def merges_of(vocab):
    """All pairs of tokens that make a token, by the token's rank: a SentencePiece model has no list
    of merges, and this is how files made of one come by theirs."""
    merges = []
    for token in sorted(vocab, key=vocab.get):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return [" ".join(pair) for pair in merges]


def sentencepiece_file(control, pre_tokenizer=None, keeps_normalizer=True):
    def change(file):
        file["added_tokens"] = [t for t in file["added_tokens"] if t["content"] in control]
        file["pre_tokenizer"] = pre_tokenizer
        if not keeps_normalizer:
            file["normalizer"] = None

    return change


def metaspace(prepend_scheme, split):
    return {
        "type": "Metaspace",
        "replacement": LOWER_BLOCK,
        "prepend_scheme": prepend_scheme,
        "split": split,
    }


def train_sentencepiece_all():
    words = f"{LOWER_BLOCK}+[^{LOWER_BLOCK}]*|[^{LOWER_BLOCK}]+"
    # Like Llama 2 and Mistral v0.1: everything is in the normalizer.
    control = ["<unk>", "<s>", "</s>"]
    llama2 = train_sentencepiece(words, 1500, control)

    def llama2_file(file):
        sentencepiece_file(control)(file)
        file["model"]["merges"] = merges_of(file["model"]["vocab"])

    write_tokenizer("llama2", llama2, llama2_file)

    # Like Mistral v0.3: everything is in the pre-tokenizer.
    control += ["[INST]", "[/INST]", "[TOOL_CALLS]"]
    mistral = train_sentencepiece(words, 1400, control)
    change = sentencepiece_file(control, metaspace("first", False), keeps_normalizer=False)
    write_tokenizer("mistral_v03", mistral, change)

    # Merges cross the spaces, so that a text must be one word.
    control = control[:3]
    crossing = train_sentencepiece(".{1,30}", 800, control)
    write_tokenizer("crossing", crossing, sentencepiece_file(control))


def write_json(path, value, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, **kwargs) + "\n")


def write_tokenizer(name, tokenizer, change=lambda file: None):
    file = json.loads(tokenizer.to_str())
    change(file)
    write_json(OUT / name / "tokenizer.json", file, separators=(",", ":"))


def train_all():
    # Like the shipped model.
    digits = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    needle = train(digits, 1200, ["<|begin|>", "<|end|>"])
    needle.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, special=True),
            AddedToken("<pad>", rstrip=True),
            AddedToken("tok", single_word=True),
            AddedToken("foo"),
            AddedToken("foobarbaz", normalized=False),
            AddedToken("foobar"),
            AddedToken("\u00ff"),
        ]
    )
    write_tokenizer("needle", needle)
    write_json(
        OUT / "needle" / "tokenizer_config.json",
        {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "pad_token": None},
    )

    # Like GPT-2, in the spelling of older files: merges are strings, the model has no type.
    def old_spelling(file):
        merges = [" ".join(m) if isinstance(m, list) else m for m in file["model"]["merges"]]
        file["model"]["merges"] = ["#version: 0.2"] + merges
        del file["model"]["type"]
        file["model"]["continuing_subword_prefix"] = ""
        file["model"]["end_of_word_suffix"] = ""

    gpt2 = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 1000, ["<|end|>"])
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    write_tokenizer("gpt2", gpt2, old_spelling)

    # Like Llama 3; some merges are missing, so that ignore_merges matters.
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    llama3 = train(pre_tokenizers.Sequence([split, byte_level]), 1300, [])
    llama3.add_special_tokens(["<|begin|>", "<|end|>"])
    template = processors.TemplateProcessing(
        single="<|begin|> $A",
        pair="<|begin|> $A <|begin|> $B:1",
        special_tokens=[("<|begin|>", llama3.token_to_id("<|begin|>"))],
    )
    post_byte_level = processors.ByteLevel(trim_offsets=False)
    llama3.post_processor = processors.Sequence([post_byte_level, template])

    def drop_merges(file):
        file["model"]["ignore_merges"] = True
        del file["model"]["merges"][20::7]

    write_tokenizer("llama3", llama3, drop_merges)

    # Like Qwen2.
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(False, trim_offsets=False, use_regex=False)
    stages = pre_tokenizers.Sequence([split, byte_level])
    qwen2 = train(stages, 1200, [], normalizer=normalizers.NFC())
    qwen2.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    qwen2.post_processor = processors.ByteLevel(False, trim_offsets=False, use_regex=False)

    def empty_affixes(file):
        file["model"]["continuing_subword_prefix"] = ""
        file["model"]["end_of_word_suffix"] = ""

    write_tokenizer("qwen2", qwen2, empty_affixes)


def split(pattern, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(add_prefix_space, use_regex):
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def sequence(*stages):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(stages)}}


def make_variants():
    last = byte_level(False, False)
    variants = {}

    def add(name, base, patch):
        variants[name] = {"base": base, "patch": patch}

    for base in ("needle", "gpt2", "llama3"):
        add(base, base, {})
    add("gpt2_prefix", "gpt2", {"pre_tokenizer": byte_level(True, True)})
    add("gpt2_no_regex", "gpt2", {"pre_tokenizer": byte_level(False, False)})
    add("gpt2_prefix_no_regex", "gpt2", {"pre_tokenizer": byte_level(True, False)})
    digits = {"type": "Digits", "individual_digits": False}
    add("digits_prefix", "needle", sequence(digits, byte_level(True, True)))
    add("llama3_merges", "llama3", {"model": {"ignore_merges": False}})
    add("qwen", "llama3", sequence(split(QWEN_PATTERN, "Isolated"), last))
    add("o200k", "llama3", sequence(split(O200K_PATTERN, "Isolated"), last))
    deepseek = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_PATTERN]
    add("deepseek", "llama3", sequence(*[split(p, "Isolated") for p in deepseek], last))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            tag = f"{behavior.lower()}{'_invert' if invert else ''}"
            add(f"regex_{tag}", "needle", sequence(split(r"[\s\d]", behavior, invert), last))
            add(f"string_{tag}", "gpt2", sequence(split("  ", behavior, invert, "String"), last))
    add("string_signs", "gpt2", sequence(split(".*", "Isolated", kind="String"), last))
    patterns = {
        "classes": r"\w+|\h|[\w\s]|\W",
        "not_word": r"[^\w]+",
        "hex": r"\h+|\H",
        "lines": r"^.|.$|\A.|.\z",
        "dot": r"(?m:.{3})|.",
        "braces": r"a{,2}b|\p{L}{2,3}?|\{|{x}",
        "look": r"(?<=\d)(?=(?:\d{3})+(?!\d))|(?<!\p{L})\p{Lu}",
        "empty": r"x*|(?=\p{Nd})",
        "scripts": r"\p{Han}+|\p{Hiragana}+|\p{^Latin}|\P{L}|[^\p{Greek}\p{^L}]+",
        "escapes": r"[\t\n\v\f\r\x00-\x1F]|\u00e9|\x{1F44D}|\x41|\.|[\]\-\\]",
        "possessive": r"\p{L}++|(?>\s+)|\d?+.",
        "caseless": r"(?i)'s|é|[a-f]+|Ω",
    }
    for name, pattern in patterns.items():
        add(f"pattern_{name}", "llama3", sequence(split(pattern, "Isolated"), last))
    add_sentencepiece_variants(add)
    return variants


def added_token(content, normalized, special=False, **flags):
    token = dict(content=content, single_word=False, lstrip=False, rstrip=False)
    return {**token, "normalized": normalized, "special": special, **flags}


def added_tokens(base, tokens):
    """With the ids that the vocabulary has, or that follow it."""
    vocab = dict(vocab_of(base))
    ids = [vocab.setdefault(token["content"], len(vocab)) for token in tokens]
    return {"added_tokens": [{"id": id, **token} for id, token in zip(ids, tokens)]}


def add_sentencepiece_variants(add):
    for base in ("llama2", "mistral_v03", "crossing", "qwen2"):
        add(base, base, {})
        add(f"{base}_ignore_merges", base, {"model": {"ignore_merges": True}})
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        add(f"qwen2_{form.lower()}", "qwen2", {"normalizer": {"type": form}})
        both = [{"type": form}, replace(" ", LOWER_BLOCK)]
        add(f"llama2_{form.lower()}", "llama2", normalizer(*both))
    nfc_first = {**normalizer({"type": "NFC"}), "pre_tokenizer": metaspace("first", True)}
    add("llama2_nfc_first", "llama2", nfc_first)

    control = ["<unk>", "<s>", "</s>"]
    normalized = [added_token(c, True, special=True) for c in control]
    add("llama2_normalized", "llama2", added_tokens("llama2", normalized))
    flags = normalized[:2] + [
        added_token("</s>", False, special=True, lstrip=True, rstrip=True),
        added_token("tok", True, single_word=True),
        added_token("foo", False, rstrip=True),
        added_token("foobar", True, lstrip=True),
        added_token("<mask>", False, lstrip=True),
        added_token(" x", True),
        added_token("e\u0301", True),
    ]
    flagged = added_tokens("llama2", flags)
    add("llama2_flags", "llama2", flagged)
    add("llama2_flags_nfc", "llama2", {**flagged, **normalizer({"type": "NFC"})})
    replaced = normalizer(replace(" ", LOWER_BLOCK))
    add("llama2_flags_replace", "llama2", {**flagged, **replaced})

    for scheme in ("first", "always", "never"):
        for cut in (False, True):
            patch = {"pre_tokenizer": metaspace(scheme, cut)}
            name = f"mistral_{scheme}{'_split' if cut else ''}"
            add(name, "mistral_v03", {**patch, "decoder": metaspace(scheme, cut)})
            add(f"{name}_flags", "mistral_v03", {**patch, **added_tokens("mistral_v03", flags)})
    old = {"type": "Metaspace", "replacement": LOWER_BLOCK, "add_prefix_space": True}
    add("mistral_old_metaspace", "mistral_v03", {"pre_tokenizer": old, "decoder": old})
    stages = [metaspace("first", False), {"type": "Digits", "individual_digits": True}]
    add("mistral_digits", "mistral_v03", sequence(*stages))
    add("mistral_digits_first", "mistral_v03", sequence(*stages[::-1]))
    removed = sequence(split(" ", "Removed", kind="String"), metaspace("first", True))
    add("mistral_removed_first", "mistral_v03", removed)

    # Like Gemma: no prefix, words end with spaces.
    gemma = normalizer(replace(" ", LOWER_BLOCK))
    gemma["pre_tokenizer"] = split(" ", "MergedWithPrevious", kind="String")
    fused = [replace(LOWER_BLOCK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    gemma["decoder"] = {"type": "Sequence", "decoders": fused}
    add("gemma", "llama2", gemma)
    strip = {"type": "Strip", "content": " ", "start": 3, "stop": 0}
    strips = {"decoder": {"type": "Sequence", "decoders": fused + [strip]}}
    add("llama2_strip3", "llama2", strips)
    steps = [replace("\\s+", "_ ", "Regex"), replace("x*", "-", "Regex"), replace("__", " ")]
    add("llama2_replace", "llama2", normalizer(*steps, replace(" ", LOWER_BLOCK)))

    # Characters that are not in the vocabulary.
    gpt2 = vocab_of("gpt2")
    for fuse in (False, True):
        name = "fuse_unk" if fuse else "unk"
        options = {"byte_fallback": False, "fuse_unk": fuse}
        add(f"llama2_{name}", "llama2", {"model": options})
        add(f"mistral_{name}", "mistral_v03", {"model": options})
        some = {"vocab": {f"<0x{b:02X}>": None for b in (0x9A, 0xA0, 0xF0)}}
        moved = {chr(0x100000 + b): 3 + b for b in (0x9A, 0xA0, 0xF0)}
        some["vocab"].update(moved)
        add(f"llama2_some_bytes_{name}", "llama2", {"model": {"fuse_unk": fuse, **some}})
        vocab = {"a": None, "\u0120": None, "x a": gpt2["a"], "x b": gpt2["\u0120"]}
        add(
            f"gpt2_{name}",
            "gpt2",
            {"model": {"vocab": vocab, "merges": [], "unk_token": "!", "fuse_unk": fuse}},
        )
    add("llama2_dropped", "llama2", {"model": {"byte_fallback": False, "unk_token": None}})


def vocab_of(base):
    return json.loads((OUT / base / "tokenizer.json").read_text())["model"]["vocab"]


def normalizer(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


FNV_BASIS = 0xCBF29CE484222325


def fnv1a(data, state):
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def digest(tokenizer, text):
    state = FNV_BASIS
    encoded = [tokenizer.encode(text, add_special_tokens=s).ids for s in (False, True)]
    for ids in encoded:
        state = fnv1a(b"".join(i.to_bytes(4, "little") for i in ids), state)
    for skip in (True, False):
        state = fnv1a(tokenizer.decode(encoded[1], skip_special_tokens=skip).encode(), state)
    return f"{state & 0xFFFFFFFF:08x}"


def tokenizer_of(variant):
    file = json.loads((OUT / variant["base"] / "tokenizer.json").read_text())
    patched = merge_patch(file, variant["patch"])
    patched["model"].setdefault("type", "BPE")  # the library no longer infers it
    return Tokenizer.from_str(json.dumps(patched))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the tokenizers anew")
    parser.add_argument("--digests", help="only print the digests of this tokenizer.json")
    parser.add_argument("--ids", nargs=2, metavar=("VARIANT", "TEXT"), help="only print these ids")
    args = parser.parse_args()
    corpus = make_corpus()
    variants = make_variants()
    if args.digests:
        tokenizer = Tokenizer.from_file(args.digests)
        print(json.dumps([digest(tokenizer, text_of(case)) for case in corpus], indent=0))
        return
    if args.ids:
        text = next(text_of(case) for case in corpus if case["name"] == args.ids[1])
        print(tokenizer_of(variants[args.ids[0]]).encode(text).ids)
        return
    if args.train:
        train_all()
        train_sentencepiece_all()
    expected = {}
    for name, variant in variants.items():
        tokenizer = tokenizer_of(variant)
        expected[name] = [digest(tokenizer, text_of(case)) for case in corpus]
    texts = stress_texts(corpus)
    stress = {}
    for name in ("llama2", "mistral_v03", "llama3", "qwen2"):
        tokenizer = tokenizer_of(variants[name])
        ids = stress_ids(tokenizer.get_vocab_size())
        decoded = [[tokenizer.decode(i, skip_special_tokens=s) for s in (True, False)] for i in ids]
        stress[name] = {
            "texts": [digest(tokenizer, text) for text in texts],
            "decoded": [
                f"{fnv1a(''.join(d).encode(), FNV_BASIS) & 0xFFFFFFFF:08x}" for d in decoded
            ],
        }
    write_json(OUT / "stress.json", stress, indent=0)
    write_json(OUT / "corpus.json", corpus, indent=0)
    write_json(OUT / "variants.json", variants, indent=1)
    write_json(OUT / "expected.json", expected, indent=0)
    print(f"tokenizers {tokenizers.__version__}: {len(corpus)} texts, {len(variants)} tokenizers")


if __name__ == "__main__":
    main()
