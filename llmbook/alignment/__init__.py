"""Alignment: losses, batches and rollouts for the training engine, with no loop of their own.

chat.py: messages → text → tokens, and which of them count. sft.py: batches of conversations,
padded or packed, and their loss. lora.py: low-rank adapters.
"""
