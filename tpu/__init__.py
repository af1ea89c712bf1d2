"""A launcher for Cloud TPUs: `python -m tpu.launch`, README.md. Nothing in lmjax imports it."""
