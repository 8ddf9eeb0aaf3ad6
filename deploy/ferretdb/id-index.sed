# FerretDB 1.24 makes its index of _id on one expression and asks by another, so SQLite reads the whole table for each
# document that is looked for or deleted: of 4,000 documents of 4 kB 60 and 125 ms, with one expression 1.5 and 0.5.
/IDColumn = DefaultColumn/ s/->'\$\._id'/->\\"_id\\"/
