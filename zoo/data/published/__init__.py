"""Published data sets, in their authors' layouts and splits. Nothing is downloaded."""
