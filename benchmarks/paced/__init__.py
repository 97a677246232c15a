"""A model that takes its time without computing, inside the real services.

With it the services' own cost shows on a machine without GPU: what a step takes beyond the forward.
"""
