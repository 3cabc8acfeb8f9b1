"""Split data into train, validation and test, by a rule or by the data's own folders and columns."""
