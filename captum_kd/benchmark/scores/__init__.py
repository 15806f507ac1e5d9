"""Do scores mean what they are said to mean?"""
