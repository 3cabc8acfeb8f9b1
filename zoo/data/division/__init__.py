"""How data is divided into train, validation and test, and what of a layout or a table says so."""
