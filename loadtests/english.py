"""Sixty-four English sentences of two to eighteen words, for what translates."""

ENGLISH = """Come in.
Who knows?
I am hungry.
She sings well.
We have time.
Close the door.
Where is Tom?
He was late again.
I like your idea.
Do you speak French?
The dog is sleeping.
My brother lives here.
What time is it?
They never told us.
It rained all night.
I bought some bread.
She opened the window.
You should see a doctor.
How much does this cost?
We are waiting for you.
He gave me his address.
I can't find my keys.
The train leaves at noon.
Everybody was very happy.
Have you ever been there?
I don't want to know.
My mother is a teacher.
This book is too difficult.
He works in a bank.
Are you free this evening?
I forgot to call you.
The children played in the garden.
She has two cats and a dog.
I would like a cup of coffee.
Tom said he would come tomorrow.
There is something I must tell you.
We have to finish this before Monday.
Could you please speak a little slower?
I have never seen such a big house.
He asked me what I was looking for.
The weather was better than we had expected.
I am not sure that this is right.
She was born in a small town in Canada.
Why didn't you tell me the truth yesterday?
He could not come because he was ill.
I think we should leave before it gets dark.
My father reads the newspaper every morning after breakfast.
If it rains tomorrow, we will stay at home.
She told me that she had lost her passport.
We have known each other since we were children.
The man who lives next door is a musician.
I would rather stay here than go out tonight.
He promised to help me, but he never came back.
They were surprised to see so many people at the station.
I wonder whether he will remember what I said to him.
It took us more than three hours to get to the airport.
You can take the bus in front of the hotel to the museum.
When I was young, I used to swim in this river every summer.
He bought a new car although he did not have enough money for it.
I have been looking for this book for a long time, and now I have found it.
She said that she would rather travel alone than with people she does not know.
Could you tell me how to get from here to the nearest post office, please?
The teacher asked us to write a short story about what we had done during the holidays.
My grandmother, who is ninety years old, still walks to the market every Saturday to buy vegetables.""".splitlines()
