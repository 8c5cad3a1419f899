"""Views of a dataset for people: facts about files and stores, pictures of studies and of crops."""
