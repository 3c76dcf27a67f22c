"""The shipped questions: one short file each, every one of them a `space = Space(...)` that opens with its question."""
