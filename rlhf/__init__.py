"""RLHF on parameter-efficient policies: from a base model to an aligned adapter."""
