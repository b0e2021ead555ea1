"""What supervised fine-tuning gives, and what it does not: short runs from the small base model.

recipe      the one recipe of all of them
kinds       worked examples in the prompt; 1 to 16 kinds seen: answers to kinds never seen
weights     adapters by rank and scale beside all weights; old text among the conversations
lessons     wrong labels, a loss on other tokens, two manners of answering
real        signatures and summaries of the documentation; a public set of 1,100 tasks
judge       a model that judges: does it prefer the shorter answer, or the first?
runs        the record: `python -m llmbook record sft`
"""
