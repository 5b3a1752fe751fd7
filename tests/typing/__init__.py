"""Never run, only type-checked: the public API as a program that embeds the gateway uses it."""
