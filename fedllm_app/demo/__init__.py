"""The demonstration: text and a backbone that every installation has. Nothing here is needed.

Other rooms name these modules in tables, as text, and import them when a run asks for "embedded".
"""
