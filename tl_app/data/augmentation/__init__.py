"""Random changes of training examples: `texts`, `images`, and `mixing` of the images of a batch.

`Modality.augmentation` makes the function that --augment names; the training stream and `data.copies` apply it.
"""
