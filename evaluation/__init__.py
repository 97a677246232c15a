"""Quality: does guidance move the text the way the user asked?"""
