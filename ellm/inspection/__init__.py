"""What a program is made of, for people, for other programs and for pages."""
