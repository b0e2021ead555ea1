"""Alignment: losses, batches and rollouts for the training engine, with no loop of their own.

chat.py: messages → text → tokens, and which of them count. sft.py: batches of conversations,
padded or packed, and their loss. lora.py: low-rank adapters. reward.py: what people prefer, as a
number. rollouts.py: what a policy writes, and how probable it was; on_policy.py, ppo.py and
grpo.py learn from it, kl.py holds them to a reference, collapse.py watches. dpo.py: from pairs.
"""
