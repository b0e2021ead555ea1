"""What written steps, more samples and a verifiable reward are worth.

judges      what an answer to a chain is worth; how several answers are used
learning    GRPO by the training engine, as all runs here use it
chains      base models on chains of symbols: their exam, GRPO, four forms of it
spend       64 answers a question: pass@k, majority, best of n with four verifiers
tool        a call that jumps four steps, its result masked or learned from
chat        GRPO from small-chat, on questions that it mostly fails
runs        the record: `python -m llmbook record reasoning`
"""
