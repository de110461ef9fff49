"""What all gates of a model share in one forward pass: what is padding, where documents begin, what the data say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from adapt.errors import AdaptError
from adapt.mixture.memory import Memory, memory_of, put_memory

if TYPE_CHECKING:
    from adapt.mixture.losses import Losses

_OF_A_PASS = ("valid", "starts", "domains", "past", "memory", "shared", "observing")


@dataclass
class Routing:
    """The state of one forward pass. One object for a model and all its gates; filled anew before each pass.

    `valid [batch, length]` is False at padding. `starts [batch, length]` is True at the first token of a document, also
    within a packed row. `domains [batch, length]` holds the index of the adapter that the data name for a token, -1
    where they name none. `past` is the KV cache that the pass goes on from; a gate with a memory keeps it beside that.
    `keep [batch, length]` is True where the layers' outputs are to stay what they were without adapters.
    A field is None where the pass has no such thing. `observed` collects what gates report while `observing`.

    Passes without gradients leave everything as they found it: a backward pass that computes activations again
    (gradient checkpointing) then sees the state of its own forward pass.
    """

    valid: torch.Tensor | None = None
    starts: torch.Tensor | None = None
    domains: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    past: Any = None
    observing: bool = False
    observed: list[Any] = field(default_factory=list)

    memory: Memory = field(default_factory=Memory)
    """What gates remember of the tokens in the cache."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Gates that several layers use, by the place where they were computed."""
    watched: bool = False
    """Whether the gates of the next passes are observed. (Never when activations are computed again.)"""
    losses: Losses | None = None
    """What the gates' own losses weigh while training."""
    known: Mapping[str, int] = field(default_factory=dict)
    """The adapters that domains mean, by the domain's name."""
    marks: Mapping[int, int] = field(default_factory=dict)
    """Tokens that name the domain of what follows them in a document: token id to adapter."""
    named: str | Sequence[str] | None = None
    """The domain of the batches, or of each row, where they say none themselves."""
    strict: bool = False
    """Whether every token must have a domain."""
    _kept: list[dict[str, Any]] = field(default_factory=list)

    def watch_model(self, model: torch.nn.Module) -> None:
        """Fill the state before every pass of a model; takes `domains` and `valid` out of its arguments."""
        model.register_forward_pre_hook(self.begin, with_kwargs=True, prepend=True)
        model.register_forward_hook(self.end, with_kwargs=True, always_call=True)

    def begin(self, model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before a pass."""
        if not torch.is_grad_enabled():
            self._kept.append({name: getattr(self, name) for name in _OF_A_PASS})
        named = dict(named)
        domains, valid = named.pop("domains", None), named.pop("valid", None)
        ids = arguments[0] if arguments else named.get("input_ids")
        tokens = ids if ids is not None else named["inputs_embeds"][..., 0]
        past = named.get("past_key_values")
        done = 0 if past is None else int(past.get_seq_length())
        self.past, self.shared, self.observing = past, {}, self.watched
        self.memory = memory_of(past) if done else Memory()
        self.valid = _valid(tokens, named.get("attention_mask"), done) if valid is None else valid
        self.starts = _starts(tokens, self.valid, named.get("position_ids"), done)
        self.domains = self._domains(tokens, ids, domains)
        return arguments, named

    def end(self, model: Any, arguments: Any, named: Any, output: Any) -> None:
        """After a pass, also after one that failed."""
        self.observing = False
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            put_memory(cache, self.memory)
        if not torch.is_grad_enabled() and self._kept:
            for name, value in self._kept.pop().items():
                setattr(self, name, value)

    @contextmanager
    def naming(self, domain: str | Sequence[str]) -> Iterator[None]:
        """For the length of the block, batches (or each of their rows) are of this domain, unless they say another.

        Raises AdaptError for a domain that no adapter stands for.
        """
        for name in [domain] if isinstance(domain, str) else domain:
            self.index(name)
        before, self.named = self.named, domain
        try:
            yield
        finally:
            self.named = before

    def index(self, domain: str) -> int:
        """The adapter that stands for a domain."""
        if domain not in self.known:
            raise AdaptError(f"there is no domain '{domain}' in this mixture; its domains are {', '.join(self.known)}")
        return self.known[domain]

    def _domains(
        self, tokens: torch.Tensor, ids: torch.Tensor | None, given: torch.Tensor | None
    ) -> torch.Tensor | None:
        if given is not None:
            domains = given if given.dim() == 2 else given[:, None].expand(tokens.shape)
        elif self.named is not None:
            names = [self.named] if isinstance(self.named, str) else self.named
            rows = torch.tensor([self.index(name) for name in names], device=tokens.device)
            if len(tokens) % len(rows):
                raise AdaptError(f"{len(rows)} domains are named for a batch of {len(tokens)} rows; name one for each")
            domains = rows.repeat_interleave(len(tokens) // len(rows))[:, None].expand(tokens.shape)
        else:
            domains = None
        if self.marks and ids is not None:
            domains = self._marked(ids, domains)
        if self.strict:
            self._check(tokens, domains)
        return domains

    def _marked(self, ids: torch.Tensor, domains: torch.Tensor | None) -> torch.Tensor:
        """The domain of the last mark in the document so far, else the given one."""
        place = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        named = torch.full_like(ids, -1) if domains is None else domains.clone()
        found = torch.full_like(ids, -1)
        for token, adapter in self.marks.items():
            found[ids == token] = adapter
        events = (found >= 0) | self.starts if self.starts is not None else found >= 0
        last = torch.where(events, place, -1).cummax(1).values
        before = (self.memory.recall("domains") or (torch.full_like(ids[:, 0], -1),))[0]
        current = torch.where(last >= 0, found.gather(1, last.clamp(min=0)), before[:, None])
        self.memory.keep("domains", current[:, -1])
        return torch.where(current >= 0, current, named)

    def _check(self, tokens: torch.Tensor, domains: torch.Tensor | None) -> None:
        unknown = torch.ones_like(tokens, dtype=torch.bool) if domains is None else domains < 0
        if bool((unknown if self.valid is None else unknown & self.valid).any()):
            raise AdaptError(
                "the gates of this mixture follow the data's domain, and the batch names none; put it into "
                f"mixture.routing.naming(...) with one of {', '.join(self.known)}, or set the router's default"
            )


def _valid(tokens: torch.Tensor, mask: torch.Tensor | None, done: int) -> torch.Tensor | None:
    """Where a pass over `tokens [batch, length]` behind `done` cached ones has no padding; None where nothing says."""
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
        return None
    mask = mask[:, done : done + tokens.shape[1]] if mask.shape[1] > tokens.shape[1] else mask
    return mask.bool()


def _starts(
    tokens: torch.Tensor, valid: torch.Tensor | None, positions: torch.Tensor | None, done: int
) -> torch.Tensor:
    """The first token of every document: where positions begin anew, else a row's first that is no padding."""
    if isinstance(positions, torch.Tensor) and positions.dim() == 2:
        starts = (positions == 0).expand(tokens.shape)
        return starts if valid is None else starts & valid
    starts = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    if done:
        return starts
    if valid is not None:
        return valid & (valid.cumsum(1) == 1)
    starts[:, 0] = True
    return starts
