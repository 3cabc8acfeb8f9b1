"""Published data sets in the layouts and splits their authors give them in. Nothing is downloaded."""
