"""Reads the model's tokenizer and chat template from small files, so that the tokenize stage's rules can check them.

The stage uses transformers' tokenizers, which take seconds to import. `SmallTokenizer` has what its rules need of them,
built on the `tokenizers` package and on transformers' rendering of templates, which loads no torch. A tokenizer without
tokenizer.json is left to the stage.
"""

from __future__ import annotations

from typing import Any

import jinja2
from tokenizers import AddedToken, Tokenizer

from configs.addresses import first_line
from configs.errors import ModelError
from configs.printable import one_line
from tasks.files.model_settings import check_size
from tasks.models.templates import ending, try_apart
from tasks.plan.checks.preflight import NotCheckedError
from tasks.plan.resolve.models import ModelFiles
from tasks.tokenize.template import sentencepiece_file

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FILE = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_TEMPLATE_FILE = "chat_template.jinja"
# classes without special tokens of their own: the files name them all
_PLAIN_CLASSES = {"", "PreTrainedTokenizerFast", "TokenizersBackend"}


class SmallTokenizer:
    """The methods of a tokenizer that the rules of `tasks.tokenize` use, with transformers' names.

    `roles` maps roles, such as `eos_token`, to the texts of special tokens.
    """

    def __init__(self, backend: Tokenizer, roles: dict[str, str], template: str | dict[str, str] | None) -> None:
        self._backend = backend
        self.roles = roles
        self.chat_template = template

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._backend.get_added_tokens_decoder()

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return self.roles

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys(self.roles.values()))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def _token(self, role: str) -> str | None:
        return self.roles.get(role)

    def _id(self, role: str) -> int | None:
        text = self.roles.get(role)
        return None if text is None else self._backend.token_to_id(text)

    @property
    def bos_token(self) -> str | None:
        return self._token("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._token("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id("eos_token")

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens, with added ones, and their ids."""
        return self._backend.get_vocab(with_added_tokens=True)

    def add_tokens(self, tokens: list[AddedToken], special_tokens: bool = False) -> int:
        return self._backend.add_special_tokens(tokens) if special_tokens else self._backend.add_tokens(tokens)

    def convert_tokens_to_ids(self, texts: list[str]) -> list[int]:
        known = self.get_vocab()
        return [known[text] for text in texts]

    def convert_ids_to_tokens(self, number: int) -> str:
        return str(self._backend.id_to_token(number))

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids; in transformers too, special tokens stay unless they are to be skipped."""
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def __call__(self, text: str | list[str], **settings: Any) -> dict[str, Any]:
        """Return {"input_ids": ids}, a list of lists for a list of texts."""
        texts = [text] if isinstance(text, str) else text
        self._backend.encode_special_tokens = bool(settings.get("split_special_tokens"))
        encoded = self._backend.encode_batch(texts, add_special_tokens=settings.get("add_special_tokens", True))
        ids = [encoding.ids for encoding in encoded]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}


def template_fault(template: str) -> str | None:
    """Return why a template does not parse, with the line, or None if it does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try_apart("the chat template", template, {})
    try:
        with ending("the chat template"):
            render_jinja_template([], chat_template=template)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno} is not valid Jinja ({first_line(error.message or '')})"
    return None


def read_tokenizer(files: ModelFiles, where: str) -> SmallTokenizer:
    """Return the model's tokenizer with its own template; `where`, such as `model.name=owner/name`, is for errors.

    Raises:
        NotCheckedError: there is no tokenizer.json, or the tokenizer's class may define the end-of-text token.
        ModelError: tokenizer.json cannot be read, no end-of-text token is named, or there is a SentencePiece model
            alone, and the package that reads it is not installed.
    """
    sentencepiece = sentencepiece_file(files.sizes)
    if sentencepiece is not None:
        raise NotCheckedError(f"the tokenize stage makes the tokenizer from a SentencePiece model, {sentencepiece}")
    if _FILE not in files.sizes:
        raise NotCheckedError("the model has no tokenizer.json, the only file read here; the tokenize stage checks it")
    check_size(_FILE, files.sizes[_FILE], f"{where}: {_FILE}")
    try:
        backend = Tokenizer.from_str(files.read(_FILE).decode("utf-8"))
    # the package raises plain `Exception`s
    except Exception as error:
        if not isinstance(error, UnicodeDecodeError) and type(error) is not Exception:
            raise
        raise ModelError(f"{where}: the tokenizers package cannot read tokenizer.json\ncopy the model again") from None
    settings = files.settings.get(_SETTINGS, {})
    decoder = settings.get("added_tokens_decoder") or {}
    added = [decoder[token_id] for token_id in sorted(decoder, key=int) if isinstance(decoder[token_id], dict)]
    known = backend.get_vocab(with_added_tokens=True)
    for token in added:
        if token.get("content") and token["content"] not in known:
            backend.add_tokens([AddedToken(token["content"], special=bool(token.get("special")), normalized=False)])
    roles = _roles(files, settings, backend)
    if "eos_token" not in roles:
        if str(settings.get("tokenizer_class") or "") not in _PLAIN_CLASSES:
            raise NotCheckedError(
                f"the files name no eos_token, but {one_line(settings['tokenizer_class'])} may define one; the "
                "tokenize stage "
                "checks it"
            )
        raise ModelError("the model's tokenizer has no eos_token; set it in tokenizer_config.json")
    return SmallTokenizer(backend, roles, _own_template(files, settings))


def _roles(files: ModelFiles, settings: dict[str, Any], backend: Tokenizer) -> dict[str, str]:
    """Return the special tokens by role: from tokenizer_config.json, older files, or config.json's ids."""
    older = files.json("special_tokens_map.json")
    ids = {**files.json("generation_config.json"), **files.settings.get("config.json", {})}
    roles = {}
    for role in _ROLES:
        named = settings.get(role) or older.get(role)
        text = named.get("content") if isinstance(named, dict) else named
        if not text and role in ("bos_token", "eos_token") and role not in settings:
            token_id = ids.get(f"{role}_id")
            token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
            text = backend.id_to_token(token_id) if isinstance(token_id, int) and token_id >= 0 else None
        if text and backend.token_to_id(str(text)) is None:
            if role == "eos_token":
                raise ModelError(
                    "the model's tokenizer does not have the eos_token that tokenizer_config.json names, "
                    f"{one_line(text)}\n"
                    "use the tokenizer that the model was published with"
                )
            continue
        if text:
            roles[role] = str(text)
    return roles


def _own_template(files: ModelFiles, settings: dict[str, Any]) -> str | dict[str, str] | None:
    if _TEMPLATE_FILE in files.sizes:
        check_size(_TEMPLATE_FILE, files.sizes[_TEMPLATE_FILE], _TEMPLATE_FILE)
        return files.read(_TEMPLATE_FILE).decode("utf-8", "replace")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {str(entry["name"]): str(entry["template"]) for entry in template}
    return str(template) if template else None
