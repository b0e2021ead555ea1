"""What is inside a language model, and what it does not know.

house       walks through a house: a world whose state is never written
walker      a GPT that has read such walks; the room in it, read and edited
streams     what flows between the blocks, read and changed
opened      the shipped GPT: which head closes a bracket, a dictionary of features
facts       things told and never told: confidence, calibration, declining
runs        the record: `python -m llmbook record inside`
"""
