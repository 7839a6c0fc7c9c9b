"""From a spec to the embedding that it names."""

from headstart.embeddings.contract import Embedding
from headstart.embeddings.registry import EMBEDDINGS
from headstart.errors import SettingError, of_type
from headstart.specs import Spec, make

__all__ = ["make_embedding"]


def make_embedding(asked: str | Spec | Embedding) -> Embedding:
    """The embedding that a spec names.

    Raises `SettingError` for an unknown name or parameter, or a value that the parameter cannot have.

    >>> make_embedding("tupate")
    Tupate()
    """
    if isinstance(asked, Embedding):
        return asked
    if not isinstance(asked, str | Spec):
        raise SettingError(f"{of_type('an embedding', asked)}; give its name, such as 'tupate'")
    return make(EMBEDDINGS, asked)
