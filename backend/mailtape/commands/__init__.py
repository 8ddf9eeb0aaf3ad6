"""What an operator can tell Mailtape to do, one module a subject.

Commands read the settings, open what they need of the data folder, call one service and say what
came of it. They print to people; the log is for the program that serves.
"""
