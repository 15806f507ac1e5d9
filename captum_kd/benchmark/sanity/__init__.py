"""Do maps depend on what they should depend on?"""
