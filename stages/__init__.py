"""The stages of the pipeline: one short runnable file each; they meet in artifacts only."""
