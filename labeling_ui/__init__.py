"""The labeling app: annotators rank responses in the browser."""
