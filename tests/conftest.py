"""The test environment: seeded, offline, in a temporary home, with three tiny backbones that load like real ones."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by libraries when they are imported, so a fixture would come too late.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import hypothesis
import numpy as np
import pytest

from hub_standin import HubStandin, serving

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from headstart.backbones import Backbone

hypothesis.settings.register_profile("headstart", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("headstart")

CORPUS = (
    "the film is a warm and funny delight , and the acting is superb",
    "a dull , tired mess that never comes to life",
    "Is the following review positive or negative ? Answer : positive",
    "premise : a man is sleeping . hypothesis : nobody is awake . entailment",
    "Which of these is a planet ? (A) Mars (B) the Moon (C) a comet (D) the Sun",
    "yes no true false positive negative neutral contradiction not_entailment",
)
LOCAL = {"localhost", "127.0.0.1", "::1", "", None}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=int, default=100, help="how many damaged catalogues a hub is tried with")
    parser.addoption("--built", type=Path, help="a folder with a built wheel and source archive; default: built anew")


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Seed every generator, move the home to an empty folder and refuse connections that leave the machine."""
    home = tmp_path_factory.mktemp("home")
    for name, folder in (
        ("HOME", ""),
        ("HF_HOME", "huggingface"),
        ("XDG_CACHE_HOME", "cache"),
        ("MPLCONFIGDIR", "mpl"),
    ):
        monkeypatch.setenv(name, str(home / folder))
    monkeypatch.setattr(socket.socket, "connect", refuse_remote(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", refuse_remote(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", refuse_remote_name(socket.getaddrinfo))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- libraries under test draw from the global generator
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)


def refuse_remote(connect: Callable[..., Any]) -> Callable[..., Any]:
    """`connect` that fails the test, past every `except Exception`, when the address is on another machine."""

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in LOCAL:
            pytest.fail(f"a test tried to reach {address[0]}; tests work without a network")
        return connect(self, address)

    return guarded


def refuse_remote_name(getaddrinfo: Callable[..., Any]) -> Callable[..., Any]:
    """`getaddrinfo` that fails the test when a name would be looked up on the network."""

    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in LOCAL:
            pytest.fail(f"a test tried to look up {host}; tests work without a network")
        return getaddrinfo(host, *args, **kwargs)

    return guarded


@pytest.fixture(scope="session")
def dist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive: that of `--built`, or built anew, which needs no network."""
    given: Path | None = request.config.getoption("--built")
    if given is not None:
        return given.resolve()
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    return folder


@pytest.fixture
def hub_standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandin]:
    """A server that this process takes for the Hugging Face Hub; nobody is logged in."""
    with serving(monkeypatch, tmp_path / "huggingface") as standin:
        yield standin


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer Llama (grouped-query attention) whose tokenizer puts `<s>` first."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(bos="<s>", eos="</s>", template="<s> $A")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        **special_ids(tokenizer),
    )
    return save_tiny(tmp_path_factory.mktemp("backbone") / "tiny-llama", LlamaForCausalLM, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer GPT-2 (Conv1D layers, biases, tied head) whose tokenizer adds nothing."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>", template=None)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_inner=48,
        n_layer=2,
        n_head=4,
        n_positions=256,
        **special_ids(tokenizer),
    )
    return save_tiny(tmp_path_factory.mktemp("backbone") / "tiny-gpt2", GPT2LMHeadModel, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2 + 2-layer T5 v1.1 (gated feed-forward, untied head) whose tokenizer puts `</s>` last."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = train_tokenizer(bos=None, eos="</s>", template="$A </s>")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=tokenizer.pad_token_id,
        **special_ids(tokenizer),
    )
    return save_tiny(tmp_path_factory.mktemp("backbone") / "tiny-t5", T5ForConditionalGeneration, config, tokenizer)


def train_tokenizer(*, bos: str | None, eos: str, template: str | None) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer learnt from `CORPUS`: any text becomes tokens and back without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(["<pad>", eos, *([bos] if bos else [])]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if template:
        ids = [(token, tokenizer.token_to_id(token)) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    names = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>", model_max_length=256, **names
    )


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int | None]:
    """The token ids that a configuration repeats from its tokenizer."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def save_tiny(
    folder: Path, model_class: "type[PreTrainedModel]", config: Any, tokenizer: "PreTrainedTokenizerFast"
) -> Path:
    """Save a random model and its tokenizer to `folder`.

    Every parameter is drawn anew: the libraries' own initial values are so small, and biases so exactly zero, that a
    module put in the wrong place would hardly change the output.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
                else:
                    parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2", "tiny_t5"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Each of the tiny backbones in turn."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def backbone(folder: Path) -> "Backbone":
    """Each of the tiny backbones in turn, loaded once for a file of tests."""
    from naive import load

    return load(folder)


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> "Backbone":
    from naive import load

    return load(tiny_llama)


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2: Path) -> "Backbone":
    from naive import load

    return load(tiny_gpt2)


@pytest.fixture(scope="module")
def t5(tiny_t5: Path) -> "Backbone":
    from naive import load

    return load(tiny_t5)
