"""Losses: functions of tensors without parameters. Anything with parameters is part of a network (model/)."""
