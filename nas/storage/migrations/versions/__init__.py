"""One file per version of the store. They import nothing of ours: what they say must never change."""
