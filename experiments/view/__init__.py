"""A live viewer of a run: what is stored of it, read-only, to the browser of this machine alone.

    parts.py    which rounds are complete, by what the folder says now
    rows.py     rows of one round -> the numbers kept of them, filters, a page as plain data
    viewed.py   a folder that is looked at: the two together, with texts read piece by piece
    server.py   HTTP on loopback: a token in the address, no other origin, GET and HEAD alone

The page itself is page.html, page.css and page.js.
"""
