"""Typed configuration: one YAML file per recipe, overlaid by the command line, checked as a whole."""
