"""The test environment holds what it promises: no network, no user home, and backbones that load and compute."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDERS = ("tiny_llama", "tiny_gpt2", "tiny_t5")
TEXTS = ["Is this positive ?", "Naïve – ∑ 你好\n\ttabs  and   spaces"]


def test_a_connection_that_leaves_the_machine_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"tried to reach 192\.0\.2\.1"), socket.socket() as remote:
        remote.connect(("192.0.2.1", 80))
    with pytest.raises(pytest.fail.Exception, match=r"tried to look up example\.org"):
        socket.create_connection(("example.org", 80))


def test_a_local_connection_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_home_is_an_empty_folder() -> None:
    assert list(Path.home().iterdir()) == []
    assert os.environ["HF_HOME"].startswith(str(Path.home()))


@given(st.text(max_size=5))
def test_the_room_may_be_used_with_hypothesis(text: str) -> None:
    assert text == "".join(text)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_tokenizer_survives_saving(name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(name))
    ends = {
        "tiny_llama": ([tokenizer.bos_token_id], []),
        "tiny_gpt2": ([], []),
        "tiny_t5": ([], [tokenizer.eos_token_id]),
    }
    first, last = ends[name]
    for text in TEXTS:
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"] == first + plain + last
        assert tokenizer.decode(plain, clean_up_tokenization_spaces=False) == text
    assert tokenizer.pad_token_id == 0
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2


@pytest.mark.parametrize("name", FOLDERS)
def test_the_backbone_loads_and_computes(name: str, request: pytest.FixtureRequest) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    folder = request.getfixturevalue(name)
    load = AutoModelForSeq2SeqLM if name == "tiny_t5" else AutoModelForCausalLM
    model, tokenizer = load.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    batch = tokenizer(["a warm film", "a dull mess"], padding=True, return_tensors="pt")
    extra = {"decoder_input_ids": torch.zeros(2, 1, dtype=torch.long)} if name == "tiny_t5" else {}
    with torch.inference_mode():
        logits = model(**batch, **extra).logits
    assert logits.shape[::2] == (2, len(tokenizer))
    assert torch.isfinite(logits).all()
    assert logits[:, -1].std() > 0.5, "the random weights must be large enough that modules matter"
    assert not torch.allclose(logits[0, 0] if name == "tiny_t5" else logits[0, -1], logits[1, -1])
