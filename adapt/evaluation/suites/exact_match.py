"""Questions with known answers: the share that a model answers exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.evaluation.matching import matches
from adapt.evaluation.suites.base import Candidate, ItemSuite, Scores
from adapt.settings import Count

if TYPE_CHECKING:
    from adapt.data.sources import Source

EXAMPLES = 10


@dataclass(frozen=True)
class Question:
    """What is asked, as the row has it, and every answer that counts as right; the first is the one shown."""

    fields: Mapping[str, Any]
    prompt: str
    accepted: tuple[str, ...]


class ExactMatchSuite(ItemSuite):
    """The share of questions whose greedy answer equals the expected one; higher is better.

    Before the comparison both are brought to Unicode NFC, with runs of white space as one space and none at the ends.
    """

    metric: ClassVar[str] = "exact_match"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    kind: Literal["exact_match"]
    """Answer questions."""

    format: Literal["chat", "prose"] = "chat"
    """How to ask: in the model's chat template (`chat`; in prose if it has none) or as text to continue (`prose`)."""

    template: str = "Question: {prompt} Answer:"
    """The prose form; names in braces are the row's fields. A prose answer ends at the first newline."""

    chat_template_from: str | None = None
    """A model of this stage whose chat template is used for those that have none, instead of asking them in prose."""

    prompt: str = "prompt"
    """The row's field that holds the question."""

    answer: str = "answer"
    """The row's field that holds the expected answer."""

    aliases: str = "aliases"
    """The row's field that may hold a list of further right answers."""

    limit: Count = 200
    """How many questions at most: the first ones of the source."""

    max_new_tokens: Count = 64
    """How long an answer may get, in tokens."""

    ignore_case: bool = False
    """Whether upper and lower case count as the same."""

    ignore_final_period: bool = True
    """Whether one period at the end of an answer is left out of the comparison."""

    def borrows(self) -> str | None:
        """The model whose chat template stands in, if any."""
        return self.chat_template_from

    def items(self, source: Source) -> Sequence[Question]:
        """The first `limit` rows as questions. Raises AdaptError for a row without the fields, or for no rows."""
        questions = [self._question(number, row) for number, row in enumerate(islice(source.rows(), self.limit), 1)]
        if not questions:
            raise AdaptError(f"source '{self.source}' has no rows to ask")
        return questions

    def _question(self, number: int, row: Mapping[str, Any]) -> Question:
        for name in (self.prompt, self.answer):
            if not isinstance(row.get(name), str):
                raise AdaptError(
                    f"row {number} of source '{self.source}' has no text in field '{name}' (it has: {', '.join(row)}); "
                    "name the fields with prompt: and answer:"
                )
        return Question(row, row[self.prompt], (row[self.answer], *(row.get(self.aliases) or ())))

    def _prose(self, question: Question) -> str:
        try:
            return self.template.format_map({"prompt": question.prompt, **question.fields})
        except (KeyError, IndexError, ValueError) as error:
            raise AdaptError(
                f"template '{self.template}' does not fit the rows of source '{self.source}' ({error!r}); "
                f"a row's fields are {', '.join(question.fields)}"
            ) from error

    def score(self, candidate: Candidate, items: Sequence[Question], advance: Callable[[int], None]) -> Scores:
        """1 for each question answered exactly, 0 for the others; with the answers and the form used."""
        from adapt.evaluation.generation import chat_prompt, greedy, prose_prompt, stop_ids

        template = None
        if self.format == "chat":
            own = candidate.tokenizer.chat_template
            template = own if isinstance(own, str) else (own or {}).get("default")
            template = template or candidate.chat_templates.get(self.chat_template_from or "")
        if template is None:
            prompts = [prose_prompt(candidate.tokenizer, self._prose(question)) for question in items]
        else:
            prompts = [chat_prompt(candidate.tokenizer, question.prompt, template) for question in items]
        answers = greedy(
            candidate.model,
            candidate.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            stop_ids=stop_ids(candidate.model, candidate.tokenizer, template),
            stop_at_newline=template is None,
            advance=advance,
        )
        right = [float(self._right(answer, question)) for answer, question in zip(answers, items, strict=True)]
        return Scores(right, [1.0] * len(right), answers, "prose" if template is None else "chat")

    def _right(self, answer: str, question: Question) -> bool:
        return matches(
            answer, question.accepted, ignore_case=self.ignore_case, ignore_final_period=self.ignore_final_period
        )

    def examples(self, items: Sequence[Question], scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
        """The first questions with each model's answer and whether it was right."""
        return [
            {
                "prompt": question.prompt,
                "expected": question.accepted[0],
                "answers": {name: score.answers[index] for name, score in scores.items()},
                "right": {name: bool(score.totals[index]) for name, score in scores.items()},
            }
            for index, question in enumerate(items[:EXAMPLES])
        ]
