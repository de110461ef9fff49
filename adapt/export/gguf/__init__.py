"""GGUF files for llama.cpp and its kin, of Llama-family models with grown vocabularies.

architecture    what the model is: metadata, names of tensors, which rows are permuted
pre_tokenizers  which of llama.cpp's pre-tokenizers cuts text as `tokenizer.json` does
vocabulary      tokens, types, merges or scores, special ids, chat template
values          number formats: F16, BF16, Q8_0
write           the file, tensor by tensor
proof           the file read back and held against the checkpoint and its tokenizer
"""
