"""The gate of a CI: may this candidate ship?"""
