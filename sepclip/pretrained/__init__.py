"""The voices that the pretrained separators are chosen and tested by."""
