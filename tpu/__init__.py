"""A launcher for Cloud TPUs (`python -m tpu.launch`, README.md). A leaf: nothing in lmjax imports it."""
