"""A causal backbone reads what plain text becomes: prompts, cuts and targets, for tokenizers of several makes."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from conftest import CORPUS, train_tokenizer
from headstart.backbones.encoding import Encoder
from headstart.errors import TaskError
from headstart.records import TextFormat

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "the film is a warm delight",
    "the film is superb.",
    "Is it a planet?",
    "(A) Mars (B) the Moon",
    "two spaces  and a line\nend \n",
    "Ünïcode 猫 ?!",
    "a .\n\n",
]
SUFFIXES = ["\nAnswer:", "\n", " ->", "", "Answer: "]
LINES = (*CORPUS, *(f"{line}.\nAnswer: yes" for line in CORPUS), "a?\nAnswer: no", "b).\n\nAnswer: true")


def fast(tokenizer: Tokenizer, bos: str | None) -> PreTrainedTokenizerFast:
    if bos:
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", **({"bos_token": bos} if bos else {})
    )


def trained(tokenizer: Tokenizer, alphabet: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256) if not alphabet)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def llama_2(*, legacy: bool) -> PreTrainedTokenizerFast:
    """Spaces as "▁", one put before every text, no division into words, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = trained(tokenizer, [])
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return fast(tokenizer, "<s>")


def llama_3() -> PreTrainedTokenizerFast:
    """Bytes, with punctuation and the line ends that follow it as one word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return fast(trained(tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet())), "<s>")


def gpt2() -> PreTrainedTokenizerFast:
    return train_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>", template=None)


class Slow:
    """A tokenizer that does not tell where its tokens stand."""

    is_fast = False

    def __init__(self, inner: PreTrainedTokenizerFast) -> None:
        self._inner = inner
        self.bos_token_id, self.eos_token_id = inner.bos_token_id, inner.eos_token_id

    def __call__(self, text: str, **options: Any) -> Any:
        assert not options.get("return_offsets_mapping")
        return self._inner(text, **options)


MAKES: dict[str, Callable[[], Any]] = {
    "llama-2": lambda: llama_2(legacy=False),
    "llama-2-legacy": lambda: llama_2(legacy=True),
    "llama-3": llama_3,
    "gpt-2": gpt2,
    "slow": lambda: Slow(llama_3()),
}


@pytest.fixture(scope="module", params=list(MAKES))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(MAKES[request.param](), whole=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_what_the_plain_text_becomes(encoder: Encoder, text: str, suffix: str) -> None:
    prompt = encoder.prompt(text, TextFormat(suffix=suffix))
    assert list(prompt) == encoder.tokenizer(text + suffix)["input_ids"]


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
@pytest.mark.parametrize("text", TEXTS)
def test_a_target_is_what_the_whole_text_continues_with(encoder: Encoder, text: str, suffix: str) -> None:
    text_format = TextFormat(suffix=suffix)
    prompt, target = encoder.prompt(text, text_format), encoder.target("positive film", text_format)
    whole = encoder.tokenizer(f"{text}{suffix} positive film")["input_ids"]
    assert [*prompt, *target] == [*whole, encoder.tokenizer.eos_token_id]


@pytest.mark.parametrize("suffix", ["", "Answer: "])
def test_without_a_suffix_to_follow_a_target_begins_a_word(encoder: Encoder, suffix: str) -> None:
    target = encoder.target("positive", TextFormat(suffix=suffix))
    inside = encoder.tokenizer("a film: positive")["input_ids"]
    assert inside[-len(target) + 1 :] == list(target[:-1])


@pytest.mark.parametrize("most", [16, 21, 30])
@pytest.mark.parametrize("text", TEXTS)
def test_a_cut_prompt_is_what_some_beginning_of_the_text_becomes(encoder: Encoder, text: str, most: int) -> None:
    text, text_format = text * 4, TextFormat(max_input=most, suffix="\nAnswer:")
    prompt = list(encoder.prompt(text, text_format))
    made = [encoder.tokenizer(text[:end] + text_format.suffix)["input_ids"] for end in range(len(text) + 1)]
    assert prompt in made
    fitting = [len(ids) for ids in made if len(ids) <= most]
    assert len(prompt) >= max(fitting) - 4, "no more is cut than the last token, which may be a character of four bytes"


def test_an_input_of_which_no_token_fits() -> None:
    encoder = Encoder(gpt2(), whole=False)
    alone = len(encoder.tokenizer("\nAnswer:")["input_ids"])
    with pytest.raises(TaskError, match="no token of the input '猫' fits beside the suffix; raise max_input"):
        encoder.prompt("猫", TextFormat(max_input=alone + 1))


def test_the_layout_on_a_card_is_without_a_suffix_where_none_is_added() -> None:
    text_format = TextFormat(max_input=99)
    assert Encoder(gpt2(), whole=False).layout(text_format) == text_format
    assert Encoder(gpt2(), whole=True).layout(text_format) == TextFormat(suffix="", max_input=99)
