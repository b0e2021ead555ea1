"""The outlook's small experiments; runs.py records all that train.

pictures    text and image: a caption, two ways to fuse, pairing by contrast
retrieval   facts in weights and facts in passages
hybrids     attention, scan and experts combined
diffusion   a masked-diffusion language model beside an autoregressive one
energy      bytes moved for each token, by bits and by pruning; nothing is trained
"""
