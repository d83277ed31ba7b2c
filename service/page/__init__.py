"""The pages for people: `/`, a playground over the public API, and `/docs`, its description.

They are static files, of this folder and of packages that ship a library for browsers, and answers that were recorded
for the API's document. No code here knows models, states or endpoints: what a page shows, it learns over the API.
Invariant: a page loads nothing from another host, and its content security policy says so to the browser.
"""
