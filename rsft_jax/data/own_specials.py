"""A copy of a tokenizer whose special tokens have names that no text of a user can spell.

A chat template writes special tokens as text, and a user's text may spell them too. Where it does,
the template's own are renamed in the text and in this copy, which then tells the two apart in one
pass over the whole text: what surrounds a token (blanks that it takes, the start of a text, the
merges of its neighbours) is as it would be without the user's spelling.
"""

import json
from collections.abc import Mapping
from typing import Any


def own_name(lead: str, token_id: int) -> str:
    """The name of a special token in a copy; `lead` is a character that no text holds."""
    return f"{lead}{token_id}{lead}"


def renamed(definition: str, specials: Mapping[str, int], lead: str) -> Any:
    """The copy, in which `own_name(lead, id)` stands for the special token of that id.

    Args:
      definition: the content of a `tokenizer.json`.
      specials: special tokens by their spelling.
      lead: a character that no text to encode holds.
    """
    import tokenizers

    names = {content: own_name(lead, i) for content, i in specials.items()}
    found = json.loads(definition)
    model = found["model"]
    if isinstance(model["vocab"], dict):
        # Tokens that were added beside the vocabulary join it, so that they keep their ids.
        vocab = {token["content"]: token["id"] for token in found["added_tokens"]} | model["vocab"]
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocab.items()}
    else:  # pairs of a piece and its score, by id; added tokens follow
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    for token in found["added_tokens"]:
        if token["special"]:
            # Whether it stands alone is seen where it is renamed, by its neighbours there.
            token |= {"content": names[token["content"]], "single_word": False}
    found["post_processor"] = None  # it names special tokens, and adds what is not asked for
    return tokenizers.Tokenizer.from_str(json.dumps(found))
