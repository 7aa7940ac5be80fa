"""Pure figures of texts without a judge, of how sure a mean or a share is, and of what steering did to items.

Numbers come in and numbers go out. It must not know models.
"""
