"""Readers of outside data: files and hub data sets become records, duplicates are found, splits are drawn."""
