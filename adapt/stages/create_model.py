"""`kind: create_model`: a small model from nothing, a tokenizer trained on the sources and random weights.

For examples, tests and experiments whose every number can be reproduced; `recipes/tiny.yaml` makes the two
example models with it. The tokenizer is byte-level BPE in the manner of Llama-3 and Qwen, the model a Llama.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.data.sources import Source, training_documents
from adapt.settings import Count, Positive, Settings, Share
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS_AND_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where a piece may not cross: words with a leading space, single digits, runs of signs, line ends, spaces."""


class TokenizerSettings(Settings):
    """The tokenizer: byte-level BPE, every digit a piece of its own."""

    corpus: dict[str, Share]
    """Sources and their shares of the bytes that the pieces are learned from."""
    sample: Count = 2_000_000
    """How many bytes of text to learn from."""
    size: Count = 2000
    """Number of pieces, special tokens included."""
    end: str = "<|endoftext|>"
    """Stands before and after every document, so that its first token is predicted too."""
    pad: str = "<|pad|>"
    """Fills batches; never trained."""
    special: tuple[str, ...] = ("<|user|>", "<|assistant|>", "<|end|>")
    """Further special tokens, such as those of the chat template."""
    chat_template: str | None = None
    """Jinja template of a conversation; the model has none if it is not given."""


class Architecture(Settings):
    """The model: a Llama with random weights."""

    hidden_size: Count = 192
    """Width d of the residual stream."""
    layers: Count = 4
    """Number of decoder layers."""
    heads: Count = 6
    """Number of attention heads; divides the hidden size."""
    key_value_heads: Count = 6
    """Number of key and value heads; divides the number of heads."""
    intermediate_size: Count = 512
    """Width of the feed-forward layers."""
    context: Count = 256
    """Longest sequence in tokens."""
    tied: bool = True
    """Whether the input and output embeddings are one matrix."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format in which the checkpoint is stored; stages that train it keep it."""
    initial_deviation: Positive = 0.02
    """Standard deviation of the normal distribution that the weights are drawn from."""


class CreateModel(Stage):
    """Make a new small model: learn a tokenizer on sources, draw random weights."""

    kind: Literal["create_model"]
    """The kind of stage."""
    tokenizer: TokenizerSettings
    """How the text is cut into pieces."""
    architecture: Architecture = Architecture()
    """The shape of the model."""

    version: ClassVar[int] = 1

    def reads(self) -> Reads:
        """The sources of the tokenizer's corpus."""
        names = self.tokenizer.corpus
        return Reads(sources=tuple(Reference(("tokenizer", "corpus", name), name) for name in names))

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """Heads that do not divide, shares that do not sum to 1."""
        shape, total = self.architecture, sum(self.tokenizer.corpus.values())
        if abs(total - 1) > 1e-6:
            yield Complaint(("tokenizer", "corpus"), f"the shares sum to {total:g}; they must sum to 1")
        if shape.hidden_size % shape.heads:
            yield Complaint(("architecture", "heads"), f"{shape.heads} heads do not divide {shape.hidden_size}")
        if shape.heads % shape.key_value_heads:
            message = f"{shape.key_value_heads} key and value heads do not divide {shape.heads} heads"
            yield Complaint(("architecture", "key_value_heads"), message)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model/` and return its size."""
        from adapt.checkpoints import save_checkpoint

        tokenizer = learn_tokenizer(self.tokenizer, context.sources)
        model = draw_model(self.architecture, tokenizer, context.seed)
        save_checkpoint(model, tokenizer, context.folder / "model")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        context.display.line(f"  {parameters:,} parameters, {len(tokenizer):,} pieces")
        return {"parameters": parameters, "pieces": len(tokenizer)}


def learn_tokenizer(settings: TokenizerSettings, sources: Mapping[str, Source]) -> PreTrainedTokenizerFast:
    """Learn byte-level BPE on the sources in their shares of bytes; deterministic."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LETTERS_AND_DIGITS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size,
        special_tokens=[settings.end, settings.pad, *settings.special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (sources[name] for name in settings.corpus)
    budgets = (share * settings.sample for share in settings.corpus.values())
    samples = (_up_to(source, budget) for source, budget in zip(texts, budgets, strict=True))
    core.train_from_iterator(itertools.chain.from_iterable(samples), trainer)
    first = (settings.end, core.token_to_id(settings.end))
    core.post_processor = processors.TemplateProcessing(single=f"{settings.end} $A", special_tokens=[first])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=settings.end,
        eos_token=settings.end,
        pad_token=settings.pad,
        additional_special_tokens=list(settings.special),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = settings.chat_template
    return tokenizer


def _up_to(source: Source, budget: float) -> Iterator[str]:
    """Training texts until `budget` bytes are reached."""
    for document in training_documents(source):
        if budget <= 0:
            return
        text = document["text"]
        budget -= len(text.encode())
        yield text


def draw_model(shape: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of the given shape with weights drawn from the seed, in the format that it is stored in."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        initializer_range=shape.initial_deviation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
