"""How far one model is from another: the windows of a text, and what their logits say."""
