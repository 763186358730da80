"""From messages to token ids and back to positions: the chat template, or a plain layout for base models.

The tokenizer is passed in (any transformers tokenizer), so nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ledex_ray.episodes import Ints
from ledex_ray.errors import BadInput
from ledex_ray.prompts import Message, Prompt

_MARK = "\u241eanswer\u241e"  # stands for a sampled answer where the template puts one
_PLAIN_HEADINGS = {"system": "### Instruction", "user": "### Task", "assistant": "### Answer"}


class Renderer:
    """Turns prompts into token ids for one tokenizer.

    Layout "auto" takes the chat template where there is one; base models without one (StarCoder, CodeLlama) get
    headed sections, and stop at the next heading.
    """

    def __init__(self, tokenizer: Any, layout: Literal["auto", "chat", "plain"] = "auto") -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if layout == "chat" and not has_template:
            raise BadInput("model.layout", "the tokenizer has no chat template", given=layout, expected="auto or plain")
        if tokenizer.eos_token_id is None:
            raise BadInput("model.name", "its tokenizer has no end-of-sequence token, so an answer could never end")
        self.tokenizer = tokenizer
        self.chat = has_template and layout != "plain"

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer beside the end-of-sequence token."""
        return () if self.chat else ("\n###",)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids up to where the answer begins."""
        if self.chat:
            turns = [{"role": m.role, "content": m.content} for m in prompt]
            return list(
                self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
            )
        sections = [f"{_PLAIN_HEADINGS[m.role]}\n{m.content.strip()}\n\n" for m in prompt]
        return list(self.tokenizer("".join(sections) + f"{_PLAIN_HEADINGS['assistant']}\n")["input_ids"])

    def follow_up_ids(self, prompt: Prompt, message: Message) -> list[int]:
        """What stands between a sampled answer to `prompt`, end-of-sequence token included, and the answer after it.

        The answer's own ids are left as they were sampled; only the text after it is turned into ids.
        """
        if not self.chat:
            text = f"\n\n{_PLAIN_HEADINGS[message.role]}\n{message.content.strip()}\n\n{_PLAIN_HEADINGS['assistant']}\n"
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        turns = [{"role": m.role, "content": m.content} for m in (*prompt, Message("assistant", _MARK), message)]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        after = text.rpartition(_MARK)[2].removeprefix(self.tokenizer.eos_token)
        return list(self.tokenizer(after, add_special_tokens=False)["input_ids"])

    def answer_ids(self, answer: str) -> list[int]:
        """The ids of an answer as the model should write it, the end-of-sequence token last."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def token_at(self, token_ids: Sequence[int], character: int) -> int:
        """Index of the token that holds the last character before offset `character` of the decoded answer.

        By bisection over decoded prefixes, so that a character split over several tokens counts with its last one.
        """
        low, high = 0, len(token_ids) - 1
        while low < high:
            middle = (low + high) // 2
            if len(self.decode(token_ids[: middle + 1])) >= character:
                high = middle
            else:
                low = middle + 1
        return low

    def decode(self, token_ids: Sequence[int] | Ints) -> str:
        """The text of an answer, special tokens left out, spaces as they were."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
