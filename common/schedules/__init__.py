"""Learning rate schedules that verl does not have: linear, wsd, plateau."""
